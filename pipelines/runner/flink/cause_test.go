package flink

import "testing"

func TestCause(t *testing.T) {
	t.Parallel()
	for want, trace := range map[string]string{
		"no column \"x\"": "java.lang.RuntimeException: Error received from SDK harness for instruction 5: process bundle failed for instruction 5 using plan S[3] : while executing Process for Plan[3] failed\n\tcaused by:\nDoFn[a.b.scoreFn;c.d/predict] failed\n\tcaused by:\nno column \"x\"\n\tat org.apache.beam.A.b(A.java:5)\n\t... 3 more\nCaused by: java.util.concurrent.ExecutionException: again\n\tat x\n",
		"Remaining = -1":  "java.io.IOException: Serializer consumed more bytes\n\tat a.b(C.java:1)\nCaused by: java.lang.IndexOutOfBoundsException: Remaining = -1\n\t... 15 more\n",
		"Cannot run program \"/b\": error=2, No such file": "org.apache.flink.X: outer\n\tat y\nCaused by: java.io.IOException: Cannot run program \"/b\": error=2, No such file\n\tat z\nCaused by: java.io.IOException: error=2, No such file\n\t... 3 more",
		"Process died":                   "org.apache.flink.X: open failed: java.lang.IllegalStateException: Process died\n\tat y\nCaused by: java.lang.IllegalStateException: Process died\n\t... 3 more",
		"java.lang.NullPointerException": "org.apache.flink.X: outer\n\tat y\nCaused by: java.lang.NullPointerException\n\tat z",
		"plain":                          "plain",
		"":                               "",
	} {
		if got := Cause(trace); got != want {
			t.Errorf("cause is %q, want %q", got, want)
		}
	}
}

func TestCounterNames(t *testing.T) {
	t.Parallel()
	for metric, want := range map[string]string{
		"[2]{source.Read, feature.Compute}.source_read": "source.read", "[3]sink.features_frontier_violation": "features.frontier_violation",
		"source_read": "", "numRecordsIn": "", "op.numRecordsIn": "",
	} {
		if got := counter(metric); got != want {
			t.Errorf("%s counts %q, want %q", metric, got, want)
		}
	}
}

func TestCompareState(t *testing.T) {
	t.Parallel()
	have := states([]string{"features/CUSTOMER_ID@0a1b2c3d/feature.arriveFn", "features/CUSTOMER_ID@0a1b2c3d/feature.routeFn", "features/TERMINAL_ID@99999999/x", "sink.Write"})
	if err := compare([]string{"CUSTOMER_ID@0a1b2c3d"}, have); err != nil {
		t.Error(err)
	}
	if err := compare([]string{"TERMINAL_ID@11111111", "GONE@22222222"}, have); err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 2 {
		t.Errorf("two stages differ, and the error is %v", err)
	}
}
