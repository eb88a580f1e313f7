module every.channel/runner-images

go 1.25.0

require (
	github.com/google/shlex v0.0.0-20191202100458-e7afc7fbc510
	github.com/hiddeco/sshsig v0.2.0
	github.com/stretchr/testify v1.12.1
	go.yaml.in/yaml/v3 v3.0.5
	golang.org/x/crypto v0.47.0
	golang.org/x/sys v0.40.0
)
