package nix_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// newKey makes an SSH key and returns the line of its public part.
func newKey(t *testing.T, comment string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	run(t, "/", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)
	return readFile(t, path+".pub")
}

// keysScript runs a script of the module's, with real curl and ssh-keygen.
func keysScript(t *testing.T, name string, environment []string, arguments ...string) (stdout, stderr string, err error) {
	t.Helper()
	command := exec.Command("bash", append([]string{filepath.Join(lab.Root(t), "nix/modules/ec-runner/keys", name)}, arguments...)...)
	command.Env = append(os.Environ(), environment...)
	var out, errors strings.Builder
	command.Stdout, command.Stderr = &out, &errors
	err = command.Run()
	return out.String(), errors.String(), err
}

// keyServer serves texts at their names.
func keyServer(t *testing.T, texts map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text, ok := texts[strings.TrimPrefix(r.URL.Path, "/")]; ok {
			fmt.Fprint(w, text)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestReadKeys(t *testing.T) {
	t.Parallel()
	one, two := newKey(t, "one"), newKey(t, "two")
	texts := map[string]string{
		"two":      "# operators\n\n" + one + two,
		"crlf":     strings.ReplaceAll(one+two, "\n", "\r\n"),
		"unended":  one + strings.TrimSuffix(two, "\n"),
		"options":  `from="10.20.30.0/24" ` + one + two,
		"empty":    "",
		"comments": "# nobody\n\n",
		"page":     "<html>Not Found</html>\n",
		"cut":      one + "ssh-ed25519 AAAA two\n",
		"private":  "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n",
		"binary":   "\x00\x01\x02",
		"long":     strings.Repeat(one, 2000),
	}
	address, folder := keyServer(t, texts), t.TempDir()
	for name, text := range texts {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	for _, from := range []string{address + "/", folder + "/"} {
		for name, want := range map[string]string{
			"two": one + two, "crlf": one + two, "unended": one + two, "options": texts["options"],
		} {
			stdout, stderr, err := keysScript(t, "read-keys.sh", nil, from+name)
			require.NoError(t, err, "%s: %s", from+name, stderr)
			assert.Equal(t, want, stdout, from+name)
		}
		for name, want := range map[string]string{
			"empty":    "there is no SSH key in it",
			"comments": "there is no SSH key in it",
			"page":     "line 1 is no SSH key",
			"cut":      "line 2 is no SSH key",
			"private":  "line 1 belongs to a private key; give the .pub file",
			"binary":   "is no SSH key",
			"long":     "",
			"absent":   "",
		} {
			stdout, stderr, err := keysScript(t, "read-keys.sh", nil, from+name)
			assert.Error(t, err, from+name)
			assert.Empty(t, stdout, from+name)
			assert.Contains(t, stderr, from+name+": ", from+name)
			assert.Contains(t, stderr, want, from+name)
		}
	}
	for from, want := range map[string]string{
		"ftp://boot/keys":                "give a file, or an address that begins with http:// or https://",
		"file:///etc/passwd":             "give a file, or an address that begins with http:// or https://",
		folder:                           "there is no such file",
		"http://127.0.0.1:1/absent":      "cannot be downloaded",
		address + "/absent":              "cannot be downloaded",
		filepath.Join(folder, "nowhere"): "there is no such file",
	} {
		_, stderr, err := keysScript(t, "read-keys.sh", nil, from)
		assert.Error(t, err, from)
		assert.Contains(t, stderr, want, from)
	}
}

func TestBootKeys(t *testing.T) {
	t.Parallel()
	one, two, three := newKey(t, "one"), newKey(t, "two"), newKey(t, "three")
	address := keyServer(t, map[string]string{"one": one, "two": two, "broken": "no key\n"})
	for name, test := range map[string]struct {
		commandLine, url, credential, want string
		fails                              bool
	}{
		"nothing":            {commandLine: "init=/x quiet"},
		"the option":         {url: address + "/one", want: one},
		"the command line":   {commandLine: "every-channel.authorized_keys=" + address + "/two", url: address + "/one", want: two},
		"the last of two":    {commandLine: "every-channel.authorized_keys=" + address + "/broken every-channel.authorized_keys=" + address + "/one", want: one},
		"the credential":     {credential: three, want: three},
		"credential and URL": {credential: three, url: address + "/one", want: three + one},
		"no such address":    {url: address + "/absent", fails: true},
		"no keys there":      {url: address + "/broken", credential: three, fails: true},
	} {
		folder := t.TempDir()
		file := filepath.Join(folder, "authorized_keys.d", "root")
		require.NoError(t, os.WriteFile(filepath.Join(folder, "cmdline"), []byte(test.commandLine+"\n"), 0o600))
		if test.credential != "" {
			require.NoError(t, os.WriteFile(filepath.Join(folder, "ssh.authorized_keys.root"), []byte(test.credential), 0o600))
		}
		arguments := []string{file}
		if test.url != "" {
			arguments = append(arguments, test.url)
		}
		_, stderr, err := keysScript(t, "boot-keys.sh",
			[]string{"COMMAND_LINE=" + filepath.Join(folder, "cmdline"), "CREDENTIALS_DIRECTORY=" + folder}, arguments...)
		if test.fails || test.want == "" {
			assert.NoFileExists(t, file, name)
			assert.Equal(t, test.fails, err != nil, "%s: %s", name, stderr)
			continue
		}
		require.NoError(t, err, "%s: %s", name, stderr)
		assert.Equal(t, test.want, readFile(t, file), name)
	}
}
