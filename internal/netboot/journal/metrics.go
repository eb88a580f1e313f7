package journal

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"every.channel/runner-images/internal/netboot/state"
)

// Metrics are the numbers for Prometheus. Their labels have few values: what a
// client makes up never becomes one.
type metrics struct {
	started, finished *prometheus.CounterVec // by release and architecture
	bytes             *prometheus.CounterVec // by protocol
	active            *prometheus.GaugeVec   // by protocol
	refused           *prometheus.CounterVec // by protocol and reason
	tftpErrors        *prometheus.CounterVec // by reason
	proxyAnswers      *prometheus.CounterVec // by firmware
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
	registry.MustRegister(active, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return metrics{
		started:      counter("boots_begun_total", "Boots that began: a machine asked for its release's script or kernel.", "release", "architecture"),
		finished:     counter("boots_finished_total", "Boots for which the kernel and the initrd were sent to their ends.", "release", "architecture"),
		bytes:        counter("sent_bytes_total", "Bytes of files and scripts sent.", "protocol"),
		active:       active,
		refused:      counter("refused_requests_total", "Requests refused because of the client's network, the chain token, or a limit.", "protocol", "reason"),
		tftpErrors:   counter("tftp_errors_total", "TFTP requests and transfers that failed.", "reason"),
		proxyAnswers: counter("proxy_dhcp_answers_total", "ProxyDHCP answers sent.", "firmware"),
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
