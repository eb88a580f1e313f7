package nix_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// insideNetwork marks the process of a test that runs in a network of its own.
const insideNetwork = "TEST_INSIDE_NETWORK"

// publish.sh finds a tuner by asking the network for it, with the real
// hdhomerun_config, and says what to do if there is none.
func TestPublishFindsItsTuner(t *testing.T) {
	if os.Getenv(insideNetwork) == "" {
		runInOwnNetwork(t)
		return
	}
	ip := lab.Tool(t, "boot", "ip")
	run(t, "/", ip, "link", "add", "lan", "type", "veth", "peer", "name", "other")
	run(t, "/", ip, "link", "set", "other", "up")
	run(t, "/", ip, "address", "add", "10.20.30.9/24", "brd", "+", "dev", "lan")
	run(t, "/", ip, "link", "set", "lan", "up")
	run(t, "/", ip, "link", "set", "lo", "up")
	publish := func(deviceID string) (string, error) {
		command := exec.CommandContext(t.Context(), "sh", "modules/ec-node/publish.sh", deviceID, "9.1",
			"echo", "wt-publish", "--name", "a name", "--input", "INPUT", "--last", "")
		command.Env = append(os.Environ(), "PATH="+filepath.Dir(lab.Tool(t, "hdhomerun", "hdhomerun_config"))+":"+os.Getenv("PATH"))
		output, err := command.CombinedOutput()
		return string(output), err
	}

	output, err := publish("1038ABCD")
	require.Error(t, err, "there is no tuner yet")
	assert.Contains(t, output, "the HDHomeRun 1038ABCD does not answer on this network; trying again\n")

	// The firewall lets answers in to these ports only.
	run(t, "/", "sh", "-c", "echo 32768 60999 >/proc/sys/net/ipv4/ip_local_port_range")
	asked := answerForTuner(t, 0x1038abcd)
	output, err = publish("1038ABCD")
	require.NoError(t, err, output)
	assert.Equal(t, "the HDHomeRun 1038ABCD is at 10.20.30.9\n"+
		"wt-publish --name a name --input http://10.20.30.9/auto/v9.1 --last \n", output)
	port := (<-asked).Port
	assert.True(t, 32768 <= port && port <= 60999, "the question came from port %d", port)

	output, err = publish("10FFFFFF")
	require.Error(t, err, "another tuner answers")
	assert.Contains(t, output, "hdhomerun device 1038ABCD found at 10.20.30.9")
}

// runInOwnNetwork runs this test again, as another process in a network of its own.
func runInOwnNetwork(t *testing.T) {
	t.Helper()
	arguments := []string{"--net", os.Args[0], "-test.run=^" + t.Name() + "$", "-test.v"}
	if os.Geteuid() != 0 {
		arguments = append([]string{"--map-root-user"}, arguments...)
	}
	command := exec.CommandContext(t.Context(), lab.Tool(t, "boot", "unshare"), arguments...)
	command.Env = append(os.Environ(), insideNetwork+"=yes")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "--- PASS: "+t.Name())
}

// answerForTuner answers as a tuner does to those who look for one: a packet is
// type and length (big endian), fields of tag, length and value, and the Ethernet
// CRC of all that (little endian). See hdhomerun_pkt.h of libhdhomerun. The channel
// has who asked first.
func answerForTuner(t *testing.T, deviceID uint32) <-chan *net.UDPAddr {
	t.Helper()
	const (
		port            = 65001
		discoverReply   = 0x0003
		tagDeviceType   = 0x01
		tagDeviceID     = 0x02
		deviceTypeTuner = 1
	)
	fields := append([]byte{tagDeviceType, 4}, binary.BigEndian.AppendUint32(nil, deviceTypeTuner)...)
	fields = append(append(fields, tagDeviceID, 4), binary.BigEndian.AppendUint32(nil, deviceID)...)
	reply := binary.BigEndian.AppendUint16(nil, discoverReply)
	reply = binary.BigEndian.AppendUint16(reply, uint16(len(fields)))
	reply = append(reply, fields...)
	reply = binary.LittleEndian.AppendUint32(reply, crc32.ChecksumIEEE(reply))

	socket, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	asked := make(chan *net.UDPAddr, 1)
	go func() {
		request := make([]byte, 1500)
		for {
			_, from, err := socket.ReadFrom(request)
			if err != nil {
				return // closed
			}
			// Whoever looks for it from this machine's loopback is not on the network.
			if strings.HasPrefix(from.String(), "10.20.30.") {
				select {
				case asked <- from.(*net.UDPAddr):
				default:
				}
				_, _ = socket.WriteTo(reply, from)
			}
		}
	}()
	return asked
}
