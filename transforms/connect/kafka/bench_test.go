package kafka

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

// payment is a line of about 150 bytes.
func payment(buf []byte, i int) []byte {
	return fmt.Appendf(buf, `{"transaction_id":%d,"tx_datetime":"2026-01-%02dT%02d:%02d:%02dZ","customer_id":%d,"terminal_id":%d,"tx_amount":%d.%02d,"tx_fraud":%d}`,
		i, 1+i/86400%28, i/3600%24, i/60%60, i%60, i*7919%5000, i*104729%10000, i*31%200, i*17%100, i%100/99)
}

func BenchmarkDrain(b *testing.B) {
	broker := components.Kafka(b)
	const n = 2_000_000
	broker.CreateTopic("payments", 4)
	broker.Fill("payments", n, payment)
	address := "kafka://" + broker.Addr + "/payments"
	b.ReportAllocs()
	for b.Loop() {
		r, size := follow(b, address, nil), 0
		for got := 0; got < n; {
			chunks, err := r.Poll(b.Context(), time.Second, 8<<20)
			if err != nil {
				b.Fatal(err)
			}
			for _, c := range chunks {
				got += len(c.Records)
				for i := range c.Records {
					size += len(c.Records[i].Value)
				}
			}
		}
		b.SetBytes(int64(size))
		r.Close()
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkSend(b *testing.B) {
	broker := components.Kafka(b)
	const n = 1_000_000
	broker.CreateTopic("payments", 4)
	s, err := sinkDriver{}.OpenSender(b.Context(), "kafka://"+broker.Addr+"/payments")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var key, text []byte
	b.ReportAllocs()
	for b.Loop() {
		size := 0
		for i := range n {
			key, text = strconv.AppendInt(key[:0], int64(i), 10), payment(text[:0], i)
			if err := s.Send(b.Context(), driver.Record{Key: key, Value: text}, nil); err != nil {
				b.Fatal(err)
			}
			size += len(text)
		}
		if err := s.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(size))
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkLatency is from Send to Poll, one record at a time.
func BenchmarkLatency(b *testing.B) {
	broker := components.Kafka(b)
	broker.CreateTopic("payments", 1)
	address := "kafka://" + broker.Addr + "/payments"
	s, err := sinkDriver{}.OpenSender(b.Context(), address)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r := follow(b, address, nil)
	defer r.Close()
	for b.Loop() {
		if err := s.Send(b.Context(), driver.Record{Value: []byte("{}")}, nil); err != nil {
			b.Fatal(err)
		}
		for got := 0; got == 0; {
			chunks, err := r.Poll(b.Context(), 100*time.Millisecond, 1<<20)
			if err != nil {
				b.Fatal(err)
			}
			for _, c := range chunks {
				got += len(c.Records)
			}
		}
	}
}
