// Command bench measures the fraud job side by side, in one run:
//
//	go run ./testing/bench [-json] [-only PART] [-data DIR] [-pairs 5] [-rows N] [-python PYTHON] [-profile FILE]
//
// The job is: decode JSON lines, compute the handbook's fourteen windowed features and the amount,
// score with an MLP 15-64-32-1, encode JSON lines. Who does it:
//
//   - bare_loop: plain Go on both cores, without Beam, with this module's decoder, scorer and encoder
//     and windows by hand; see bare.go
//   - graph_prism, graph_direct: the scoring graph as the command runs it
//   - peer_go: the hand-written loop of ../shared/reference/recipes/peers/go, with the faster of its
//     scorers; left out where its source is not there
//
// Input is the simulator's table, written once for all. Each runs as a process of its own, in turns,
// -pairs times; a rate is the median of events over the wall time of the whole process, a ratio the
// median of the ratios within a turn, since on a shared machine speed changes from minute to minute.
// CPU seconds and peak memory are the kernel's count of that process. The scores of all our own must
// agree before anything is printed.
//
// Then come the scorer alone, with and without AVX2, in CPU time a row, and with -python (an
// interpreter that has numpy, scikit-learn and xgboost) training beside XGBoost and scikit-learn on the
// week that -data's baseline table begins with.
//
// Then the state of a stream as it grows: both stages, without a runner and scored on arrival, with full
// windows of 10 thousand to 10 million terminals and half as many customers. Each size has a process of
// its own, in turns, the largest only once. It gives CPU time and bytes of state an event, compactions
// included, the CPU time of the longest call, memory, and apart from these what it takes to make all
// shards again from their logs. It needs this module's source, 8 GB, and some minutes.
//
// Last comes the stream, on a real Kafka that is started for it: a topic of -events is drained by the
// scoring graph on Prism, from the first score to the last, and then the time from before an event is
// sent until its score is read, of -rate events a second for -seconds, the first fifth left out.
// Broker, generator and graph share the machine; their CPU is told apart. Topics of -variants events are drained
// with UUIDs as the ids of events, customers and terminals, in the order of event time, and both: what state
// they write an event, and how fast. In that order the last events wait for the watermark, and time is taken up
// to nine in ten.
//
// -only measures one part: job, scorer, training, growth, stream, flink or soak. Only that measures soak: events come at
// -rate a second until windows were full several times (10,000,000), then at most 20,000 a second for -seconds.
// Memory is looked at every ten seconds; what it does from a minute after that change of rate is told, by the mean of
// the first and of the last minute, and the slope of the line through all:
//
//	go run ./testing/bench -only soak -seconds 600
//
// Flink is measured by itself, too, from Kafka to Kafka, with JVMs, workers and broker on one machine:
//
//	go run ./testing/bench -only flink [-events N] [-pairs 5] [-parallelism 1,2] [-rate 50000 -seconds 30]
//
// The scoring graph on Beam's Flink runner is there beside flinkpeer, a DataStream job in Java that does the same by
// hand. Both run on a cluster of their own of the same settings, with a checkpoint every 5 s, and read a topic of
// four partitions in the order of arrival, with the network of the same files. First, both score a topic of one
// partition at a parallelism of 1, and the share of scores that agree to a millionth is told: in arrival no order is
// promised, so that edges of windows may differ. Then they drain the topic of -events in turns, from the first score
// to the last, which leaves their start out, of their CPU time too; that is of all processes of the cluster, and for
// ours told apart for the workers. Then -rate events a second come for -seconds: the latency as of the stream, left out
// for who can't keep up. It needs what package local of the Flink runner does, and a JDK. -flink changes options of
// our job, as in -flink bundle_time=20ms.
//
// # Output
//
// A table, or with -json a line a figure:
//
//	{"name": ..., "value": ..., "unit": ..., "against": ..., "ratio": ..., "bar": ..., "ok": ...}
//
// Ratio is the value over that of the figure named by against; null without one. Bar bounds the ratio,
// or the value where there is no ratio, from below for rates and from above for costs; ok says whether
// it is kept, and both are null where nothing is promised. The exit code is 0 also where a bar is
// missed: on a machine with other work that says little.
package main
