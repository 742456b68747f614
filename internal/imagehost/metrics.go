package imagehost

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collector asks the image host at each scrape.
type collector struct {
	client                        *Client
	up, chunks, kept, limit       *prometheus.Desc
	storeBytes, storeBad, repairs *prometheus.Desc
	clients                       *prometheus.Desc
}

// scrapeLimit bounds the question of one scrape.
const scrapeLimit = 2 * time.Second

// NewCollector makes the image host's counters metrics of the server. Counters
// begin anew when the process does.
func NewCollector(c *Client) prometheus.Collector {
	return &collector{client: c,
		up:         prometheus.NewDesc("millpond_image_host_up", "1 if the image host answers. It is started when a machine first needs it.", nil, nil),
		chunks:     prometheus.NewDesc("millpond_image_cache_chunks_total", "Chunks by how they were had: hit, miss, joined a fetch under way, read ahead, unreadable, evicted.", []string{"how"}, nil),
		kept:       prometheus.NewDesc("millpond_image_cache_bytes", "Bytes of images kept on this host.", nil, nil),
		limit:      prometheus.NewDesc("millpond_image_cache_limit_bytes", "What may be kept.", nil, nil),
		clients:    prometheus.NewDesc("millpond_image_host_clients", "Disks of machines that are read through the image host.", nil, nil),
		storeBytes: prometheus.NewDesc("millpond_image_store_read_bytes_total", "Plain bytes that a store gave.", []string{"store"}, nil),
		storeBad:   prometheus.NewDesc("millpond_image_store_reads_failed_total", "Reads of a store that did not give a chunk, by reason.", []string{"store", "reason"}, nil),
		repairs:    prometheus.NewDesc("millpond_image_store_repairs_total", "Chunks put back into a store.", []string{"store", "outcome"}, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.chunks, c.kept, c.limit, c.clients, c.storeBytes, c.storeBad, c.repairs} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	s, err := c.client.Stats(ctx)
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	if err != nil {
		gauge(c.up, 0)
		return
	}
	gauge(c.up, 1)
	gauge(c.kept, float64(s.Bytes))
	gauge(c.limit, float64(s.Limit))
	gauge(c.clients, float64(s.Clients))
	for how, n := range map[string]int64{"hit": s.Hits, "miss": s.Misses, "joined": s.Joined, "ahead": s.Ahead, "unreadable": s.Unreadable, "evicted": s.Evicted} {
		count(c.chunks, n, how)
	}
	for _, st := range s.Stores {
		count(c.storeBytes, st.Bytes, st.Name)
		count(c.storeBad, st.Damaged, st.Name, "damaged")
		count(c.storeBad, st.Missing, st.Name, "missing")
		count(c.storeBad, st.Failures-st.Damaged-st.Missing, st.Name, "failed")
		count(c.storeBad, st.Slow, st.Name, "slow")
		count(c.repairs, st.Repaired, st.Name, "repaired")
		count(c.repairs, st.RepairFailed, st.Name, "failed")
	}
}
