package telemetry

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	read     = counter("events_read_total", "Events decoded.")
	bad      = counter("events_bad_total", "Events that could not be decoded.")
	blank    = counter("lines_blank_total", "Blank lines skipped.")
	skipped  = counter("changes_skipped_total", "Changes of a database that are no events by the use case.")
	scored   = counters("events_scored_total", "Scores given.", "model", "version")
	unscored = counters("events_unscored_total", "Events without a finite score.", "model", "version")
	written  = counters("rows_written_total", "Rows handed to a target.", "sink")
	letters  = counters("dead_letters_total", "Dead letters.", "class")

	lag       = gauges("source_lag", "Records behind the partition's end.", "partition")
	watermark = gauges("source_watermark_seconds", "Watermark of a partition, in seconds since 1970.", "partition")

	latency = newHistogram("latency_seconds", "From when the source took an event in to when the sink had its score.",
		.001, .0025, .005, .01, .02, .035, .05, .075, .1, .15, .25, .5, 1, 2.5, 5, 10, 30, 60)
	batchRows = add(prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "batch_rows", Help: "Rows a batch.", Buckets: prometheus.ExponentialBuckets(1, 4, 8),
	}, []string{"stage"}))

	stateBytes   = gauges("state_bytes", "Bytes of state alive in this process.", "stage")
	stateWritten = counters("state_written_bytes_total", "Bytes of state written.", "stage")
	cacheMisses  = counters("cache_misses_total", "Shards rebuilt from their log.", "stage")

	modelInfo  = gauges("model_info", "1 for the version that serves.", "model", "role", "version")
	modelSince = gauges("model_since_seconds", "Since when the version serves here, in seconds since 1970.", "model", "role")
	modelSwaps = counters("model_swaps_total", "Versions swapped in, and versions refused.", "model", "outcome")
)

// Read counts events that were decoded.
func Read(n int) { read.Add(float64(n)) }

// Bad counts events that could not be decoded.
func Bad(n int) { bad.Add(float64(n)) }

// Blank counts blank lines.
func Blank(n int) { blank.Add(float64(n)) }

// Skipped counts changes of a database that the use case doesn't ask for.
func Skipped(n int) { skipped.Add(float64(n)) }

// Scored counts scores that the version, as NAME@VERSION, gave.
func Scored(version string, n int) { scored.WithLabelValues(split(version)...).Add(float64(n)) }

// Unscored counts events to which the version, as NAME@VERSION, gave no finite score.
func Unscored(version string, n int) { unscored.WithLabelValues(split(version)...).Add(float64(n)) }

// Written counts rows that a sink has taken. The sink is its redacted URL.
func Written(sink string, n int) { written.WithLabelValues(sink).Add(float64(n)) }

// DeadLetters counts dead letters of a class, where they are written.
func DeadLetters(class string, n int) { letters.WithLabelValues(class).Add(float64(n)) }

// Lag says how many records a partition has that were not yet read.
func Lag(partition string, records int64) { lag.WithLabelValues(partition).Set(float64(records)) }

// Watermark says up to when, in event time, a partition has been read.
func Watermark(partition string, t time.Time) {
	watermark.WithLabelValues(partition).Set(seconds(t))
}

// DropPartition forgets a partition that this process no longer reads.
func DropPartition(partition string) {
	lag.DeleteLabelValues(partition)
	watermark.DeleteLabelValues(partition)
}

// Latency observes how long events took, from when their source took them in to when a sink had them.
func Latency(d time.Duration, events int) { latency.observe(d.Seconds(), events) }

// BatchRows observes the size of a batch that came to a stage.
func BatchRows(stage string, rows int) { batchRows.WithLabelValues(stage).Observe(float64(rows)) }

// StateBytes says how many bytes of a stage's state are alive in this process.
func StateBytes(stage string, n int64) { stateBytes.WithLabelValues(stage).Set(float64(n)) }

// StateWritten counts bytes that a stage has written to its state.
func StateWritten(stage string, n int) { stateWritten.WithLabelValues(stage).Add(float64(n)) }

// CacheMisses counts shards that a stage had to rebuild from their log.
func CacheMisses(stage string, n int) { cacheMisses.WithLabelValues(stage).Add(float64(n)) }

// Serving says which version, as NAME@VERSION, serves in a role, serve, shadow or canary, since when; the
// zero time where that is not known.
func Serving(role, version string, since time.Time) {
	name, number, _ := strings.Cut(version, "@")
	modelInfo.DeletePartialMatch(prometheus.Labels{"model": name, "role": role})
	modelInfo.WithLabelValues(name, role, number).Set(1)
	if !since.IsZero() {
		modelSince.WithLabelValues(name, role).Set(seconds(since))
	}
}

// Left says that no version of the named model serves in any role any more.
func Left(model string) {
	modelInfo.DeletePartialMatch(prometheus.Labels{"model": model})
	modelSince.DeletePartialMatch(prometheus.Labels{"model": model})
}

// Swapped counts that a version of the named model took over from another.
func Swapped(model string) { modelSwaps.WithLabelValues(model, "swapped").Inc() }

// Refused counts that a version of the named model was found bad and the last good one goes on.
func Refused(model string) { modelSwaps.WithLabelValues(model, "refused").Inc() }

func split(version string) []string {
	name, number, _ := strings.Cut(version, "@")
	return []string{name, number}
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
