package serve

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// onlyByItsNames lets requests for the status page through that are for it by an IP
// address or by a name that is this server's. Else the page of another site could read
// it in a browser that reaches both, once that site's name leads to this server (DNS
// rebinding). A browser always says which host it is asking.
func (s *Server) onlyByItsNames(next http.Handler) http.Handler {
	names := map[string]bool{"": true, "localhost": true, plainHost(s.config.Hostname): true, plainHost(s.config.StatusAddress): true}
	for _, name := range s.config.StatusHostnames {
		names[plainHost(name)] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := plainHost(r.Host)
		if _, err := netip.ParseAddr(host); err != nil && !names[host] {
			http.Error(w, fmt.Sprintf("this server is not known as %q; if that is its name, start it with --status-hostname", host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// plainHost returns a host's name or address in one form, without the port.
func plainHost(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}
