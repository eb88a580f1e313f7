package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// NginxCache writes a configuration for Debian's nginx that includes the one of
// nix/modules/ec-netboot, in which texts are replaced as by strings.NewReplacer, and returns
// the arguments for nginx. What it keeps is in a folder of the test's.
func NginxCache(t testing.TB, replace ...string) (arguments []string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(Root(t), "nix", "modules", "ec-netboot", "nginx-cache.conf"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	replace = append(replace, "/var/cache/nginx", folder, "/var/log/nginx", folder)
	return NginxServer(t, strings.NewReplacer(replace...).Replace(string(content)))
}

// NginxServer returns the arguments for an nginx with this configuration of its HTTP
// servers.
func NginxServer(t testing.TB, servers string) (arguments []string) {
	t.Helper()
	folder := t.TempDir()
	var text strings.Builder
	text.WriteString("worker_processes 2;\ndaemon off;\nerror_log stderr notice;\n")
	if os.Geteuid() == 0 {
		text.WriteString("user root;\n")
	}
	fmt.Fprintf(&text, "pid %s/pid;\nevents { worker_connections 1024; }\nhttp {\n  access_log off;\n", folder)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&text, "  %s_temp_path %s/%s;\n", kind, folder, kind)
	}
	fmt.Fprintf(&text, "%s\n}\n", servers)
	configuration := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(configuration, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"-p", folder, "-c", configuration, "-e", "stderr"}
}

// NginxReady is what nginx has written when it serves.
const NginxReady = "start worker process "
