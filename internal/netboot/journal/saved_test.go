package journal_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// save writes the table as a server does when it stops.
func (s site) save(path string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	s.Keep(ctx, nil, path)
}

// restarted returns the journal of the next server.
func (s site) restarted(path string) site {
	s.t.Helper()
	s.save(path)
	next := start(s.t)
	require.NoError(s.t, next.Restore(path))
	return next
}

// sameMachines compares tables, but for the clock that times in this process have.
func sameMachines(t *testing.T, want, got []journal.Machine) {
	t.Helper()
	shown := func(machines []journal.Machine) string {
		var text strings.Builder
		for _, m := range machines {
			fmt.Fprintf(&text, "%s %s %s %v %s %v %v %q %s %v\n", m.MAC, m.Address, m.Firmware, m.Boot, m.Stage, m.Elsewhere, m.Again, m.Refused, m.LastBoot.UTC(), m.Last)
			for _, f := range m.Fetched {
				fmt.Fprintf(&text, "  %s %d %d %v %s %s\n", f.Name, f.Sent, f.Size, f.Complete, f.Began.UTC(), f.Ended.UTC())
			}
		}
		return text.String()
	}
	assert.Equal(t, shown(want), shown(got))
}

// TestTableSurvivesARestart with machines of every kind.
func TestTableSurvivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "machines.json")
	s := start(t)
	require.NoError(t, s.Restore(path), "there is none before the first start")
	page := &page{t: t, journal: s.Journal}
	page.boot(client(1), boot)
	s.Answered(client(2), "ec-ipxe.efi")
	s.BootStarted(client(3), journal.Boot{Release: "boot-v2", Architecture: machine.AArch64, Ring: "canary"})
	s.send(s.SendLoader(journal.Client{Address: address}, journal.TFTP, "undionly.kpxe", 100), 100)
	s.HandedOver(client(5), boot)
	s.HandedOver(client(5), boot)
	before := s.Machines()
	require.Len(t, before, 5)

	next := s.restarted(path)
	sameMachines(t, before, next.Machines())
	for _, c := range []journal.Client{client(1), client(3), {Address: address}, client(5)} {
		assert.True(t, next.Known(c.Address), "%s", c.Address)
	}
	assert.False(t, next.Known(client(2).Address))
	for _, counter := range []string{"netboot_boots_begun_total", "netboot_boots_finished_total", "netboot_boots_handed_over_total", "netboot_sent_bytes_total"} {
		count, err := testutil.GatherAndCount(next.registry, counter)
		require.NoError(t, err)
		assert.Zero(t, count, "%s begins anew, as Prometheus expects", counter)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Zero(t, info.Mode().Perm()&^0o640, "%s", info.Mode())

	page.journal = next.Journal
	page.boot(client(1), boot)
	assert.Len(t, next.Machines(), 5, "it is the same machine")
}

// TestRestartWhileAMachineLoads sees the boot to its end, once.
func TestRestartWhileAMachineLoads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "machines.json")
	s := start(t)
	loads := journal.Client{Address: address, MAC: mac}
	s.BootStarted(loads, boot)
	s.send(s.SendImage(loads, boot, state.Kernel, 10), 10)
	s.SendImage(loads, boot, state.Initrd, 100).Sent(40) // and then the server is killed

	next := s.restarted(path)
	assert.Equal(t, journal.Initrd, next.only().Stage)
	assert.False(t, next.only().Fetched[1].Ended.IsZero(), "nothing is under way")
	next.send(next.SendImage(loads, boot, state.Initrd, 100), 100)
	assert.Equal(t, journal.Booted, next.only().Stage)
	counts := func(name string) int {
		count, err := testutil.GatherAndCount(next.registry, name)
		require.NoError(t, err)
		return count
	}
	assert.Equal(t, 1, counts("netboot_boots_finished_total"))
	assert.Zero(t, counts("netboot_boots_begun_total"), "it began before")
}

func TestTableIsWrittenFromTimeToTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "machines.json")
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		content := func() string {
			t.Helper()
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			return string(content)
		}
		ctx, stop := context.WithCancel(t.Context())
		go s.Keep(ctx, nil, path)
		synctest.Wait()
		assert.Equal(t, `{"format":"netboot machines 1","machines":null}`, content(), "it can be written")
		s.BootStarted(client(1), boot)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.NotContains(t, content(), "52:54:00:00:00:01")
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Contains(t, content(), "52:54:00:00:00:01")

		require.NoError(t, os.Remove(path))
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.NoFileExists(t, path, "nothing has changed")
		s.BootStarted(client(2), boot)
		stop()
		synctest.Wait()
		assert.Contains(t, content(), "52:54:00:00:00:02", "at its end")
		assert.NotContains(t, s.log.String(), "is not kept")
	})
}

// TestTableThatCannotBeWritten is said once, until it can be.
func TestTableThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "absent")
	path := filepath.Join(folder, "machines.json")
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		ctx, stop := context.WithCancel(t.Context())
		go s.Keep(ctx, nil, path)
		for n := range byte(10) {
			time.Sleep(time.Minute)
			s.Answered(client(n), "ec-ipxe.efi")
		}
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(s.log.String(), "the table of machines is not kept"))
		assert.Contains(t, s.log.String(), "give a file that can be written with --machines-file")
		require.NoError(t, os.Mkdir(folder, 0o755))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		assert.FileExists(t, path)
		stop()
	})
}

// TestTableOfTwoServers stays the first one's, also where they share a state folder, until
// that ends.
func TestTableOfTwoServers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "machines.json")
	synctest.Test(t, func(t *testing.T) {
		first, second := start(t), start(t)
		ctx, stop := context.WithCancel(t.Context())
		go first.Keep(ctx, nil, path)
		synctest.Wait()
		secondCtx, stopSecond := context.WithCancel(t.Context())
		go second.Keep(secondCtx, nil, path)
		contains := func(want, other string) {
			t.Helper()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Contains(t, string(content), want)
			assert.NotContains(t, string(content), other)
		}
		first.BootStarted(client(1), boot)
		second.BootStarted(client(2), boot)
		contains("52:54:00:00:00:01", "52:54:00:00:00:02")
		assert.Contains(t, second.log.String(), path+" is kept by another boot server that runs here")
		assert.Contains(t, second.log.String(), "--machines-file")
		assert.NotContains(t, first.log.String(), "is not kept")
		stop()
		contains("52:54:00:00:00:02", "52:54:00:00:00:01")
		stopSecond()
		synctest.Wait()
	})
}

// TestTableThatIsNoFile is neither waited for nor replaced: /dev/null is one, given to keep
// no table.
func TestTableThatIsNoFile(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "machines.json")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	link := filepath.Join(t.TempDir(), "machines.json")
	require.NoError(t, os.Symlink("/dev/null", link))
	for _, path := range []string{pipe, link, t.TempDir()} {
		before, err := os.Lstat(path)
		require.NoError(t, err)
		s := start(t)
		require.ErrorContains(t, s.Restore(path), path+" is a folder or a device, and no file")
		s.BootStarted(client(1), boot)
		s.save(path)
		after, err := os.Lstat(path)
		require.NoError(t, err)
		assert.True(t, os.SameFile(before, after), path)
		assert.Contains(t, s.log.String(), path+" is a folder or a device, and no file")
	}
}

// TestTableThatIsNone stays as it is if it is another's file, and begins anew if it was ours.
func TestTableThatIsNone(t *testing.T) {
	t.Parallel()
	const ours = `{"format":"netboot machines 1",`
	for name, test := range map[string]struct {
		content, want string
		foreign       bool
	}{
		"another file":       {"rings: []\n", "is no table of machines of this version", true},
		"a newer version's":  {`{"format":"netboot machines 2","machines":[]}`, "is no table of machines of this version", true},
		"its beginning":      {ours[:10], "is no table of machines of this version", true},
		"broken off":         {ours + `"machines":[{"mac":`, "unexpected end of JSON input", false},
		"another thing in":   {ours + `"machines":[7]}`, "cannot unmarshal number", false},
		"no MAC":             {ours + `"machines":[{"mac":"x"}]}`, `"x" is no MAC address`, false},
		"no stage":           {ours + `"machines":[{"stage":6}]}`, "there is no stage 6", false},
		"no stage, negative": {ours + `"machines":[{"stage":-1}]}`, "there is no stage -1", false},
		"no address":         {ours + `"machines":[{"address":"x"}]}`, "unable to parse IP", false},
		"other words":        {ours + `"releases":[]}`, "is no table of machines of this version", false},
		"no list":            {ours + `"machines":{"mac":"x"}}`, "is no table of machines of this version", false},
		"a giant":            {ours + `"machines":[{"fetched":[` + strings.Repeat("{},", 1<<20) + "{}]}]}", "has a machine of more than 262144 bytes", false},
		"deep":               {ours + `"machines":` + strings.Repeat("[", 1<<20), "exceeded max depth", false},
		"none":               {ours + `"machines":null}`, "", false},
		"empty":              {"", "", false},
	} {
		path := filepath.Join(t.TempDir(), "machines.json")
		require.NoError(t, os.WriteFile(path, []byte(test.content), 0o600))
		s := start(t)
		if err := s.Restore(path); test.want == "" {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorContains(t, err, path+": ", name)
			assert.ErrorContains(t, err, test.want, name)
		}
		assert.Empty(t, s.Machines(), name)
		s.BootStarted(client(1), boot)
		s.save(path)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		if test.foreign {
			assert.Equal(t, test.content, string(content), name)
			assert.Contains(t, s.log.String(), "is no table of machines of this version", name)
			assert.NoFileExists(t, path+".lock", name)
		} else {
			assert.Contains(t, string(content), "52:54:00:00:00:01", name)
		}
	}
}

// TestTableOfTooMany takes no more machines over than are remembered.
func TestTableOfTooMany(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "machines.json")
	var text strings.Builder
	text.WriteString(`{"format":"netboot machines 1","machines":[{}`)
	for n := range 30_000 {
		fmt.Fprintf(&text, `,{"mac":%q,"fetched":[%s{}]}`, numbered(n), strings.Repeat("{},", 40))
	}
	text.WriteString("]}")
	require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o600))
	s := start(t)
	require.NoError(t, s.Restore(path))
	machines := s.Machines()
	assert.Len(t, machines, 20_480)
	for _, m := range machines {
		require.LessOrEqual(t, len(m.Fetched), 32)
	}
}

// heap returns how many bytes of memory are in use.
func heap() uint64 {
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return memory.HeapAlloc
}

func fleetAddress(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 20, byte(n >> 8), byte(n)}) }

// BenchmarkTable is what a fleet of 20 000 machines takes that have booted: the memory of
// the table, its size on the disk, and the time to write and to read it.
func BenchmarkTable(b *testing.B) {
	const fleet = 20_000
	path := filepath.Join(b.TempDir(), "machines.json")
	for b.Loop() {
		before := heap()
		s := site{Journal: journal.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry()), t: b}
		for n := range fleet {
			c := journal.Client{MAC: numbered(n), Address: fleetAddress(n), Firmware: bios}
			s.send(s.SendLoader(c, journal.TFTP, "ec-ipxe.efi", 1_000_000), 1_000_000)
			s.BootStarted(c, journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64})
			for _, name := range []string{state.Kernel, state.Initrd} {
				s.send(s.SendImage(c, journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64}, name, 14_000_000), 14_000_000)
			}
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		begin := time.Now()
		s.save(path)
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "ms-to-save")
		info, err := os.Stat(path)
		require.NoError(b, err)
		b.ReportMetric(float64(info.Size())/(1<<20), "MiB-on-disk")
		begin = time.Now()
		require.NoError(b, start(b).Restore(path))
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "ms-to-restore")
		require.Len(b, s.Machines(), fleet)
	}
}
