package plan

import (
	"net"
	"net/url"
	"path"
	"strings"
)

// FromRemote finds the server's address and the repository's owner/name in the
// address of a git remote, in any form of git-fetch(1). Both are empty where the
// remote is no repository of a forge: a folder, for example.
//
// A forge under a path has that path in its web addresses only, so that a remote
// over SSH does not tell it. The port of a remote over SSH is not the web's.
//
// sshHost returns the host that ssh connects to for a name, which may be an alias
// of ssh_config(5). It is asked for remotes over SSH only.
func FromRemote(remote string, sshHost func(name string) string) (serverURL, repository string) {
	address, ok := parseRemote(remote)
	if !ok || address.Hostname() == "" {
		return "", ""
	}
	folder, name := path.Split(strings.TrimSuffix(path.Clean("/"+address.Path), ".git"))
	folder, owner := path.Split(strings.TrimSuffix(folder, "/"))
	repository = owner + "/" + name
	server := url.URL{Scheme: "https", Host: hostInAddress(address.Hostname())}
	switch address.Scheme {
	case "http", "https":
		server = url.URL{Scheme: address.Scheme, Host: oneForm(address), Path: strings.TrimSuffix(folder, "/")}
	case "ssh", "ssh+git":
		server.Host = hostInAddress(webHost(address.Hostname(), sshHost(address.Hostname())))
		fallthrough
	default:
		if folder != "/" {
			return "", ""
		}
	}
	if !isRepositoryName(repository) {
		return "", ""
	}
	return server.String(), repository
}

// parseRemote reads the address of a remote. In the scp-like form, user@host:path,
// the host may be in brackets: an IPv6 address, or user@host:port as a whole.
func parseRemote(remote string) (*url.URL, bool) {
	if !strings.Contains(remote, "://") {
		host, path, ok := cutHost(remote)
		if !ok {
			return nil, false
		}
		remote = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	address, err := url.Parse(remote)
	if err != nil {
		return nil, false
	}
	address.Scheme = strings.TrimPrefix(address.Scheme, "git+")
	return address, true
}

// cutHost splits the scp-like form of a remote. What has a slash before the first
// colon is a folder.
func cutHost(remote string) (host, path string, ok bool) {
	user, bracketed, ok := strings.Cut(remote, "[")
	if !ok || user != "" && !strings.HasSuffix(user, "@") || strings.Contains(user, "/") {
		host, path, ok = strings.Cut(remote, ":")
		return host, path, ok && !strings.Contains(host, "/")
	}
	host, path, ok = strings.Cut(bracketed, "]:")
	if before, address, found := strings.Cut(host, "@"); found {
		user, host = before+"@", address
	}
	if strings.Count(host, ":") > 1 {
		host = "[" + host + "]"
	}
	return user + host, path, ok
}

// hostInAddress returns a host as an address has it: in lower case, and an IPv6
// address in brackets.
func hostInAddress(host string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return strings.ToLower(host)
}

// webHost returns the host of a forge's web pages: what an alias stands for, but
// not the address or the host for SSH alone that a whole name may stand for.
func webHost(name, connected string) string {
	isWhole := strings.ContainsAny(name, ".:")
	if connected == "" || isWhole && (net.ParseIP(connected) != nil || strings.HasSuffix(connected, "."+name)) {
		return name
	}
	return connected
}
