package journal

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// Metrics are the numbers for Prometheus. Their labels have few values: what a
// client makes up never becomes one.
type metrics struct {
	started, finished *prometheus.CounterVec   // by release and architecture
	bytes             *prometheus.CounterVec   // by protocol
	active            *prometheus.GaugeVec     // by protocol
	refused           *prometheus.CounterVec   // by protocol and reason
	tftpErrors        *prometheus.CounterVec   // by reason
	unknown           *prometheus.CounterVec   // by architecture
	proxyAnswers      *prometheus.CounterVec   // by firmware
	duration          *prometheus.HistogramVec // by release and architecture

	// Of boots whose kernel and initrd come from elsewhere, by release and architecture.
	handedOver, askedAgain *prometheus.CounterVec
	cacheBytes             prometheus.Counter
}

func newMetrics(registry *prometheus.Registry) metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "netboot", Name: name, Help: help}, labels)
		registry.MustRegister(c)
		return c
	}
	active := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "netboot", Name: "active_transfers", Help: "Transfers that are under way.",
	}, []string{"protocol"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "netboot", Name: "boot_duration_seconds",
		Help:    "How long finished boots took, from the release's script to the end of its files.",
		Buckets: []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800},
	}, []string{"release", "architecture"})
	cacheBytes := prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "netboot", Name: "cache_sent_bytes_total",
		Help: "Bytes of kernels and initrds sent to caches, which netboot_sent_bytes_total has too.",
	})
	registry.MustRegister(active, duration, cacheBytes, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return metrics{
		started:      counter("boots_begun_total", "Boots that began: a machine asked for its release's script or kernel.", "release", "architecture"),
		finished:     counter("boots_finished_total", "Boots for which the kernel and the initrd were sent to their ends.", "release", "architecture"),
		bytes:        counter("sent_bytes_total", "Bytes of files and scripts sent.", "protocol"),
		handedOver:   counter("boots_handed_over_total", "Boots of which only the start is seen, because the kernel and the initrd come from elsewhere.", "release", "architecture"),
		askedAgain:   counter("boots_asked_again_total", "Scripts sent again within 15 minutes to machines that were handed over: what they load elsewhere may fail.", "release", "architecture"),
		cacheBytes:   cacheBytes,
		active:       active,
		refused:      counter("refused_requests_total", "Requests refused because of the client's network, the chain token, or a limit.", "protocol", "reason"),
		tftpErrors:   counter("tftp_errors_total", "TFTP requests and transfers that failed.", "reason"),
		duration:     duration,
		unknown:      counter("proxy_dhcp_unknown_architecture_total", "PXE clients whose architecture no boot file is for.", "architecture"),
		proxyAnswers: counter("proxy_dhcp_answers_total", "ProxyDHCP answers sent.", "firmware"),
	}
}

// showZeros makes every series exist whose labels are known before anything happens:
// functions of Prometheus such as increase do not see a series' first value.
func (m metrics) showZeros(boots []Boot) {
	for _, protocol := range []string{HTTP, TFTP} {
		m.bytes.WithLabelValues(protocol)
		m.active.WithLabelValues(protocol)
	}
	for protocol, reasons := range map[string][]string{
		HTTP: {"limit", "network", "token"}, TFTP: {"limit", "network"}, ProxyDHCP: {"network"},
	} {
		for _, reason := range reasons {
			m.refused.WithLabelValues(protocol, reason)
		}
	}
	for _, reason := range tftpReasons {
		m.tftpErrors.WithLabelValues(reason)
	}
	m.proxyAnswers.WithLabelValues(machine.Firmware{BIOS: true, Architecture: machine.X86_64}.String())
	for _, architecture := range machine.Architectures() {
		for _, http := range []bool{false, true} {
			m.proxyAnswers.WithLabelValues(machine.Firmware{HTTP: http, Architecture: architecture}.String())
		}
	}
	for architecture := range registered + 1 {
		m.unknown.WithLabelValues(architectureLabel(uint16(architecture)))
	}
	for _, boot := range boots {
		m.started.WithLabelValues(boot.Release, string(boot.Architecture))
		m.finished.WithLabelValues(boot.Release, string(boot.Architecture))
		m.duration.WithLabelValues(boot.Release, string(boot.Architecture))
		m.handedOver.WithLabelValues(boot.Release, string(boot.Architecture))
		m.askedAgain.WithLabelValues(boot.Release, string(boot.Architecture))
	}
}

// registered is how many architectures IANA's registry of them ("Processor Architecture
// Types") has, and some to come.
const registered = 0x30

// architectureLabel is the label of an architecture of DHCP option 93. Anybody can send
// any number: those that are not registered have one label.
func architectureLabel(architecture uint16) string {
	if architecture < registered {
		return strconv.Itoa(int(architecture))
	}
	return "other"
}

// tftpReasons are those that TFTPFailed is given.
var tftpReasons = []string{
	"broken off by the client", "malformed", "not found", "refused", "timeout", "unreachable", "unreadable", "write request",
}

// showZeros makes the series of all that is served exist.
func (j *Journal) showZeros(dir *state.Dir) {
	j.mu.Lock()
	boots := slices.Collect(maps.Keys(j.begun))
	j.mu.Unlock()
	releases, _ := dir.Releases() // the status page shows what is wrong
	for _, release := range releases {
		for architecture := range release.Bundles {
			boots = append(boots, Boot{Release: release.Tag, Architecture: architecture})
		}
	}
	j.metrics.showZeros(boots)
}

// begin counts a boot that begins. The caller must not hold the lock.
func (j *Journal) begin(boot Boot) {
	j.remember(boot)
	j.metrics.started.WithLabelValues(boot.Release, string(boot.Architecture)).Inc()
}

// remember has showZeros show the series of a boot although its release may be pruned.
func (j *Journal) remember(boot Boot) {
	boot.Ring = ""
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begun[boot] = struct{}{}
}

// served is what the state folder says of the releases.
type served struct{ state *state.Dir }

var (
	currentRelease = prometheus.NewDesc("netboot_current_release_info",
		"Is 1, for the release that machines boot that are in no ring.", []string{"release"}, nil)
	currentStaged = prometheus.NewDesc("netboot_current_release_staged_timestamp_seconds",
		"When the current release was staged.", nil, nil)
	lastStaging = prometheus.NewDesc("netboot_last_staging_timestamp_seconds",
		"When the last attempt to stage a release ended.", nil, nil)
	lastStagingSuccess = prometheus.NewDesc("netboot_last_staging_success",
		"Whether the last attempt to stage a release succeeded: 1 or 0.", nil, nil)
	lastStagingSucceeded = prometheus.NewDesc("netboot_last_staging_success_timestamp_seconds",
		"When an attempt to stage a release succeeded for the last time, if it found nothing new too; 0 if none has.", nil, nil)
)

func (served) Describe(descriptions chan<- *prometheus.Desc) {
	for _, description := range []*prometheus.Desc{currentRelease, currentStaged, lastStaging, lastStagingSuccess, lastStagingSucceeded} {
		descriptions <- description
	}
}

func (s served) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(description *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(description, prometheus.GaugeValue, value, labels...)
	}
	seconds := func(at time.Time) float64 {
		if at.IsZero() {
			return 0
		}
		return float64(at.Unix())
	}
	if current, err := s.state.Current(); err == nil {
		gauge(currentRelease, 1, current.Tag)
		gauge(currentStaged, seconds(current.Staged))
	}
	if staging, err := s.state.LastStaging(); err == nil {
		success := 0.0
		if staging.Error == "" {
			success = 1
		}
		gauge(lastStaging, seconds(staging.Time))
		gauge(lastStagingSuccess, success)
		gauge(lastStagingSucceeded, seconds(staging.Succeeded))
	}
}

// newestProof is when the publisher has last changed a release, as far as the stager
// has proved it. There is no number while that is unknown.
type newestProof struct{ state *state.Dir }

var newestProofTime = prometheus.NewDesc("netboot_newest_proof_timestamp_seconds",
	"When the publisher has last changed a release, by the newest signed proof that was staged.", nil, nil)

func (newestProof) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- newestProofTime }

func (p newestProof) Collect(metrics chan<- prometheus.Metric) {
	mark, err := p.state.Mark()
	if err != nil || mark.Published.IsZero() {
		return // the status page shows what is wrong
	}
	metrics <- prometheus.MustNewConstMetric(newestProofTime, prometheus.GaugeValue, float64(mark.Published.Unix()))
}
