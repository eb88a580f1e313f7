package ipxe_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/ipxe"
)

// names are of a bundle as NixOS makes it, with a versioned kernel beside it.
var names = map[string]string{
	"bzImage":      ipxe.KernelName,
	"vmlinuz-6.12": ipxe.KernelName,
	"initrd":       ipxe.InitrdName,
	"initrd.zst":   ipxe.InitrdName,
	"netboot.ipxe": ipxe.ScriptName,
	"boot.ipxe":    ipxe.ScriptName,
}

const nixos = `#!ipxe
# Use the cmdline variable to allow the user to specify custom kernel params
# when chainloading this script from other iPXE scripts like netboot.xyz
kernel bzImage init=/nix/store/5h5yvhd0xgxcbpfmxyyklxiyxgb3rpvq-nixos-system-runner-25.05/init initrd=initrd loglevel=4 console=ttyS0,115200  ${cmdline}
initrd initrd
boot
`

func TestScriptOfNixOS(t *testing.T) {
	t.Parallel()
	got, err := ipxe.RewriteScript([]byte(nixos), names)
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(nixos, "kernel bzImage", "kernel kernel", 1), string(got))
}

// script wraps lines so that the script loads both files.
func script(lines string) string {
	return "#!ipxe\nkernel kernel initrd=initrd\ninitrd initrd\n" + lines
}

func TestRewriteScript(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"suffixes":                       {"kernel vmlinuz-6.12 initrd=initrd.zst\ninitrd initrd.zst\n", "kernel kernel initrd=initrd\ninitrd initrd\n"},
		"a setting as folder":            {"kernel ${base}/bzImage quiet", "kernel kernel quiet"},
		"a setting that ends in /":       {"kernel ${cwduri}bzImage\n", "kernel kernel\n"},
		"settings in an address":         {"kernel http://${net0/next-server}:8080/${arch}/bzImage\n", "kernel kernel\n"},
		"an address":                     {"initrd --name initrd http://10.20.30.2:8080/initrd", "initrd --name initrd initrd"},
		"a query and a fragment":         {"kernel http://boot/bzImage?mac=${mac}&x=/initrd##params=p\n", "kernel kernel\n"},
		"an escaped address":             {"kernel http://boot/bz%49mage\n", "kernel kernel\n"},
		"a folder":                       {"kernel ../x/./bzImage\n", "kernel kernel\n"},
		"an absolute path":               {"kernel /boot/bzImage initrd=\\initrd.zst", "kernel kernel initrd=initrd"},
		"white space":                    {"\t kernel \t bzImage\v  a  b\f\n", "\t kernel \t kernel\v  a  b\f\n"},
		"carriage returns":               {"kernel bzImage initrd=initrd.zst\r\ninitrd initrd.zst\r\nboot\r\n", "kernel kernel initrd=initrd\r\ninitrd initrd\r\nboot\r\n"},
		"no newline at the end":          {"kernel bzImage", "kernel kernel"},
		"a comment":                      {"# kernel bzImage.old\nkernel bzImage # was vmlinuz-5 bzImage\n", "# kernel bzImage.old\nkernel kernel # was vmlinuz-5 bzImage\n"},
		"a label":                        {":retry kernel bzImage || goto retry\n", ":retry kernel kernel || goto retry\n"},
		"commands in one line":           {"isset ${x} && kernel bzImage x=1 || kernel vmlinuz-6.12 ; boot bzImage\n", "isset ${x} && kernel kernel x=1 || kernel kernel ; boot kernel\n"},
		"&& inside a word":               {"kernel bzImage a&&b c;d\n", "kernel kernel a&&b c;d\n"},
		"a line in two":                  {"kernel bzImage \\\n  initrd=initrd.zst\n", "kernel kernel \\\n  initrd=initrd\n"},
		"a line in two, with CR":         {"kernel bzImage \\\r\n  initrd=initrd.zst\r\n", "kernel kernel \\\r\n  initrd=initrd\r\n"},
		"a word in two":                  {"kernel bz\\\nImage initrd=ini\\\ntrd.zst x\n", "kernel kernel initrd=initrd x\n"},
		"initrd= with a prefix":          {"kernel bzImage rd.initrd=initrd.zst\n", "kernel kernel rd.initrd=initrd.zst\n"},
		"an empty initrd=":               {"kernel bzImage initrd=\n", "kernel kernel initrd=\n"},
		"all initrds at once":            {"kernel bzImage initrd=initrd.magic\n", "kernel kernel initrd=initrd.magic\n"},
		"two initrd=":                    {"kernel bzImage initrd=initrd.zst initrd=initrd\n", "kernel kernel initrd=initrd initrd=initrd\n"},
		"a name of its own":              {"kernel --name linux bzImage initrd=ramdisk\ninitrd -n ramdisk initrd.zst\nimgargs linux initrd=ramdisk\nboot linux\n", "kernel --name linux kernel initrd=ramdisk\ninitrd -n ramdisk initrd\nimgargs linux initrd=ramdisk\nboot linux\n"},
		"a file's name as name":          {"initrd --name=initrd.zst http://boot/initrd.zst\nkernel bzImage initrd=initrd.zst\nimgfree initrd.zst other\n", "initrd --name=initrd initrd\nkernel kernel initrd=initrd\nimgfree initrd other\n"},
		"options":                        {"kernel --timeout 5000 -a --name=linux -- bzImage\nkernel -qt 10 bzImage\nkernel -qt10 bzImage\nkernel -nlinux --autofree bzImage\n", "kernel --timeout 5000 -a --name=linux -- kernel\nkernel -qt 10 kernel\nkernel -qt10 kernel\nkernel -nlinux --autofree kernel\n"},
		"an option after the file":       {"kernel bzImage --name bzImage\n", "kernel kernel --name bzImage\n"},
		"imgfetch":                       {"imgfetch bzImage\nimgselect bzImage\nimgargs bzImage initrd=initrd.zst\nmodule initrd.zst\nimgexec bzImage\n", "imgfetch kernel\nimgselect kernel\nimgargs kernel initrd=initrd\nmodule initrd\nimgexec kernel\n"},
		"a file inside the initrd":       {"initrd netboot.ipxe /etc/booted.ipxe mode=644\n", "initrd netboot.ipxe /etc/booted.ipxe mode=644\n"},
		"arguments in a setting":         {"set args initrd=initrd.zst quiet\nset other initrd=left-alone\nkernel bzImage ${args}\n", "set args initrd=initrd quiet\nset other initrd=left-alone\nkernel kernel ${args}\n"},
		"the script itself":              {"chain boot.ipxe || chain --replace --autofree ./boot.ipxe\n", "chain netboot.ipxe || chain --replace --autofree netboot.ipxe\n"},
		"a script elsewhere":             {"chain http://boot.netboot.xyz || chain http://other/boot.ipxe\nchain ${base}/boot.ipxe\nchain --timeout 5 ${next}\n", "chain http://boot.netboot.xyz || chain http://other/boot.ipxe\nchain ${base}/boot.ipxe\nchain --timeout 5 ${next}\n"},
		"the kernel elsewhere, executed": {"boot http://boot/bzImage initrd=initrd.zst\n", "boot kernel initrd=initrd\n"},
		"words that are no files":        {"echo bzImage initrd=initrd.zst\niseq ${x} bzImage\nset k bzImage\ngoto bzImage\nmenu bzImage\n", "echo bzImage initrd=initrd.zst\niseq ${x} bzImage\nset k bzImage\ngoto bzImage\nmenu bzImage\n"},
		"bytes that are no text":         {"echo \xff\xfe\nkernel bzImage \xff=\xfe\n", "echo \xff\xfe\nkernel kernel \xff=\xfe\n"},
		"nothing more":                   {"boot\nshim\nconsole --x 1024 --y 768\nfdt\n\n\n", "boot\nshim\nconsole --x 1024 --y 768\nfdt\n\n\n"},
		"a last line that goes on":       {"boot \\", "boot \\"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ipxe.RewriteScript([]byte(script(c.in)), names)
			require.NoError(t, err)
			assert.Equal(t, script(c.want), string(got))
			again, err := ipxe.RewriteScript(got, nil)
			require.NoError(t, err)
			assert.Equal(t, string(got), string(again), "a script of a bundle stays as it is")
		})
	}
}

func TestScriptThatRefersToOtherFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"another kernel":          {"kernel Image quiet\n", "line 4, `kernel Image quiet`: Image is not in the bundle, which has boot.ipxe (as netboot.ipxe), bzImage (as kernel), initrd, initrd.zst (as initrd), kernel, netboot.ipxe, vmlinuz-6.12 (as kernel)"},
		"another case":            {"kernel BZIMAGE\n", "BZIMAGE is not in the bundle"},
		"a file elsewhere":        {"kernel http://mirror.example/memtest\n", "http://mirror.example/memtest is not in the bundle"},
		"another initrd":          {"initrd initrd.zst\ninitrd ssh-keys.cpio /root/.ssh/authorized_keys\n", "line 5, `initrd ssh-keys.cpio /root/.ssh/authorized_keys`: ssh-keys.cpio is not in the bundle"},
		"in the second half":      {"isset ${x} || kernel memtest\n", "line 4, `kernel memtest`"},
		"behind a label":          {"\n:test kernel memtest\n", "line 5, `kernel memtest`"},
		"in a continued line":     {"kernel bzImage \\\n initrd=ramdisk\n", "line 5, `initrd=ramdisk`: ramdisk is not in the bundle"},
		"with CR":                 {"\r\nkernel memtest\r\n", "line 5, `kernel memtest`:"},
		"initrd= of no image":     {"kernel bzImage initrd=ramdisk\n", "`initrd=ramdisk`"},
		"initrd= of a setting":    {"kernel bzImage initrd=${ramdisk}\n", "`initrd=${ramdisk}`"},
		"a setting":               {"kernel ${kernel-url}\n", "line 4, `kernel ${kernel-url}`: iPXE alone knows which file ${kernel-url} is; write its name"},
		"half a setting":          {"kernel bz${x}Image\n", "iPXE alone knows which file bz${x}Image is"},
		"a setting in the suffix": {"initrd initrd-${arch}\n", "iPXE alone knows"},
		"an image as a file":      {"initrd --name ramdisk initrd\ninitrd ramdisk\n", "line 5, `initrd ramdisk`"},
		"a script beside it":      {"chain menu.ipxe\n", "menu.ipxe is not in the bundle"},
		"a signature":             {"imgverify bzImage bzImage.sig\n", "bzImage.sig is not in the bundle"},
		"a picture":               {"console --x 1024 --picture logo.png\n", "logo.png is not in the bundle"},
		"a folder":                {"kernel http://boot/\n", "http://boot/ is not in the bundle"},
		"a word that is no text":  {"kernel \x1b[2J\xff\n", "`kernel \ufffd[2J\ufffd`"},
		"shim":                    {"shim shimx64.efi\n", "shimx64.efi is not in the bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ipxe.RewriteScript([]byte(script(c.in)), names)
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestScriptThatCannotBoot(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                       "want #!ipxe",
		"#!ipxe":                                 "want #!ipxe",
		"#!/bin/sh\nkernel bzImage\n":            "want #!ipxe",
		"\xef\xbb\xbf#!ipxe\nkernel bzImage\n":   "want #!ipxe",
		"#!ipxe\nkernel bzImage\x00\n":           "want #!ipxe",
		"#!ipxe\nkernel bzImage initrd=initrd\n": "the script does not load the initrd: want a line such as `initrd initrd.zst`",

		"#!ipxe\n# kernel bzImage\ninitrd initrd\n": "the script does not load the kernel: want a line such as `kernel bzImage`",
	} {
		_, err := ipxe.RewriteScript([]byte(in), names)
		assert.ErrorContains(t, err, want, "%q", in)
	}
	got, err := ipxe.RewriteScript([]byte("#!gpxe\nkernel bzImage\ninitrd initrd\n"), names)
	require.NoError(t, err, "iPXE still runs scripts of its predecessor")
	assert.Equal(t, "#!gpxe\nkernel kernel\ninitrd initrd\n", string(got))
}

func FuzzRewriteScript(f *testing.F) {
	for _, seed := range []string{
		nixos,
		"#!ipxe\r\nkernel ${base}/bzImage \\\r\n initrd=initrd.zst\r\ninitrd --name initrd.zst http://h/initrd.zst\r\nboot\r\n",
		"#!ipxe\n:a isset ${x} && kernel -qt10 -n linux bzImage || kernel vmlinuz-6.12 ; boot linux # kernel x\ninitrd initrd\n",
		"#!ipxe\nkernel bz\\\nImage\ninitrd ini\\\ntrd\nset a initrd=initrd.zst\nimgfree bzImage\nchain http://x/boot.ipxe",
		"#!gpxe\nconsole --picture netboot.ipxe\nimgverify bzImage initrd\nkernel --name= bzImage\ninitrd -- initrd",
		"#!ipxe\nkernel memtest\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := ipxe.RewriteScript(in, names)
		if err != nil {
			for _, c := range err.Error() {
				assert.True(t, unicode.IsPrint(c), "%q", err)
			}
			return
		}
		// Nothing is lost or added but names, and what the script says is settled.
		lines := func(b []byte) int {
			return bytes.Count(b, []byte("\n")) - bytes.Count(b, []byte("\\\n")) - bytes.Count(b, []byte("\\\r\n"))
		}
		assert.Equal(t, lines(in), lines(out))
		for _, rewriteNames := range []map[string]string{names, nil} {
			again, err := ipxe.RewriteScript(out, rewriteNames)
			require.NoError(t, err)
			assert.Equal(t, string(out), string(again))
		}
	})
}
