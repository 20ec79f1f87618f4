// Package telemetry holds what a process tells while it works: Prometheus metrics, health and
// readiness. Beam's counters are totals that a runner hands out when a job has ended; these can be
// read at any time, by a scraper and by the progress line of the command.
//
// The transforms call its functions once a batch, never once a row:
//
//	telemetry.Read(batch.N)
//	telemetry.DeadLetters(string(deadletter.Range), len(letters))
//
// All functions are safe for concurrent use and can't fail. A call costs some tens of nanoseconds,
// [Latency] about ten an event.
//
// # Metrics
//
//	millrace_events_read_total                        counter    events decoded
//	millrace_events_bad_total                         counter    events that could not be decoded
//	millrace_lines_blank_total                        counter    blank lines skipped
//	millrace_changes_skipped_total                    counter    changes of a database that are no events by the use case
//	millrace_events_scored_total{model,version}       counter    scores given
//	millrace_events_unscored_total{model,version}     counter    events without a finite score
//	millrace_rows_written_total{sink}                 counter    rows handed to a target
//	millrace_dead_letters_total{class}                counter    dead letters
//	millrace_source_lag{partition}                    gauge      records behind the partition's end
//	millrace_source_watermark_seconds{partition}      gauge      watermark, seconds since 1970
//	millrace_latency_seconds                          histogram  from when the source took an event in to the sink's word
//	millrace_batch_rows{stage}                        histogram  rows a batch
//	millrace_state_bytes{stage}                       gauge      bytes of state alive in this process
//	millrace_state_written_bytes_total{stage}         counter    bytes of state written
//	millrace_cache_misses_total{stage}                counter    shards rebuilt from their log
//	millrace_model_info{model,role,version}           gauge      1 for the version that serves
//	millrace_model_since_seconds{model,role}          gauge      since when it serves, seconds since 1970
//	millrace_model_swaps_total{model,outcome}         counter    swapped or refused
//
// Age is the scraper's to compute: time() - millrace_model_since_seconds. Beside them stand the
// Go runtime's and the process's own metrics.
//
// # Labels
//
// Labels are bounded: names from the use case, classes of dead letters, partitions and versions.
// Callers never pass an id or a value of an event, and redact URLs before they pass them.
//
// # Non-obvious
//
// The metrics belong to the process, not to a run: two jobs of one process add up, and a bundle that
// is retried counts twice. What has to be exact is Beam's counters.
package telemetry
