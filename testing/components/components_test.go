package components_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/testing/components"
)

func TestKafka(t *testing.T) {
	b := components.Kafka(t)
	b.CreateTopic("events", 2)
	const n = 10_000
	fill := func() {
		b.Fill("events", n, func(buf []byte, i int) []byte { return fmt.Appendf(buf, `{"id":%d}`, i) })
	}
	count := func(want int) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics("events"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for got := 0; got < want; {
			f := c.PollFetches(context.Background())
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			got += f.NumRecords()
		}
	}
	fill()
	count(n)
	b.Kill()
	if c, err := net.Dial("tcp", b.Addr); err == nil {
		c.Close()
		t.Error("somebody answers at the address of a killed broker")
	}
	b.Restart()
	fill()
	count(2 * n)
	b.Restart()
	count(2 * n)
}
