package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// A Need is something that a boot server needs of its machine.
type Need struct {
	Name  string // for people: "HTTP"
	Found string // what is there, if nothing is missing
	Err   error  // why the server would not start, or no machine would boot
}

// Check looks for what a server with this configuration needs, and returns all of it,
// where New ends with the first that is missing. It leaves nothing open. Without a
// StateDir it does not look for one. An error is about the configuration itself.
func Check(ctx context.Context, config Config) ([]Need, error) {
	s := &Server{config: config.withDefaults()}
	if err := s.config.check(); err != nil {
		return nil, err
	}
	address, err := s.listenIP()
	if err != nil {
		return nil, err
	}
	var needs []Need
	look := func(name, found string, open func() (io.Closer, error)) {
		opened, err := open()
		if err == nil {
			err = opened.Close()
		}
		needs = append(needs, Need{name, found, err})
	}
	if config.StateDir != "" {
		look("state folder", config.StateDir, func() (io.Closer, error) {
			err := s.openState()
			return s.state, err
		})
	}
	look("iPXE", s.config.TFTPBootFilename+" in "+config.IPXEDir, s.checkLoaders)
	look("HTTP", fmt.Sprintf("port %d can be had", s.config.HTTPPort), func() (io.Closer, error) { return s.listenHTTP(ctx, address) })
	look("TFTP", fmt.Sprintf("port %d can be had", s.config.TFTPPort), func() (io.Closer, error) { return s.listenTFTP(ctx, address) })
	look("status page", s.config.StatusAddress+" can be had", func() (io.Closer, error) { return s.listenStatus(ctx) })
	return needs, nil
}

func (s *Server) checkLoaders() (io.Closer, error) {
	if err := s.openLoaders(); err != nil {
		return nil, err
	}
	if missing := s.missingLoader(); missing != "" {
		return nil, errors.Join(errors.New(missing), s.loaders.Close())
	}
	return s.loaders, nil
}
