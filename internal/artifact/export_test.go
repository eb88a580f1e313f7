package artifact

// What the tests of this package look at.
type Kind = kind

const (
	Netboot = netbootKind
	ISO     = isoKind
	SDImage = sdImageKind
	File    = fileKind
)

var Recognise = recognise
