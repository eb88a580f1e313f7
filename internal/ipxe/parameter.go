package ipxe

// TagParameter is the parameter on the kernel's command line that names the
// release which a machine was booted from. The kernel and init leave a name with
// a dot in it alone.
const TagParameter = "runner-images.release_tag"

// AddParameter returns a script that gives every kernel which it loads one more
// parameter, before those that it has: the last one of a name counts. No other
// byte changes. A parameter is one word of iPXE's, so it must have no white space
// and no "${".
func AddParameter(script []byte, parameter string) []byte {
	r := rewriter{script: script}
	for _, c := range commands(script) {
		if len(c) == 0 || c[0].text != "kernel" {
			continue
		}
		if _, words := syntaxes["kernel"].parse(c); len(words) > 0 {
			r.replace(words[0], words[0].text+" "+parameter)
		}
	}
	return r.rewritten()
}
