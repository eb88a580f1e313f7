package ipxe

import "strings"

// Bind returns a bundle's script with the relative addresses of the kernel and
// the initrd replaced: address returns where the file called name is, and its last
// part must be name. No other byte changes. A name that an image has by then is
// left alone, as in `boot kernel` after `kernel kernel`: iPXE would load the file
// again, without its arguments. So is initrd=initrd, because an image is called
// by the last part of its address.
func Bind(script []byte, address func(name string) string) []byte {
	r := rewriter{script: script}
	images := map[string]bool{}
	for _, c := range commands(script) {
		if len(c) == 0 {
			continue
		}
		s := syntaxes[c[0].text]
		options, words := s.parse(c)
		for _, w := range words[:min(s.files, len(words))] {
			name := strings.TrimPrefix(w.text, "./")
			// The kernel command takes an image as well, but where it comes a second
			// time it is more likely that the first has failed.
			isImage := images[w.text] && !s.downloads && c[0].text != "kernel"
			if (name == KernelName || name == InitrdName) && !isImage {
				r.replace(w, address(name))
			}
			images[fileName(w.text)] = true
		}
		for _, o := range options {
			images[o.value.text] = o.name == nameOption || images[o.value.text]
		}
	}
	return r.rewritten()
}
