package simulate

import (
	"cmp"
	"context"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() { source.Register("simulate", fraudDriver{}) }

// fraudDriver is the source driver. The simulation is one partition that can't be split: every day
// needs those before it.
type fraudDriver struct{}

func (fraudDriver) Partitions(_ context.Context, address string) ([]driver.Partition, error) {
	if _, err := ParseURL(address); err != nil {
		return nil, err
	}
	return []driver.Partition{{URL: address, Name: address, Size: 1}}, nil
}

// EstimateBytes takes the handbook's mean of 1.92 payments a customer and day, of 100 bytes as JSON.
func (fraudDriver) EstimateBytes(_ context.Context, address string) (int64, error) {
	p, err := ParseURL(address)
	if err != nil {
		return 0, err
	}
	days, customers := cmp.Or(int64(p.Days), 183), cmp.Or(int64(p.Customers), 5000)
	return days * customers * 192, nil
}

// ReadBatches emits all rows; with a rate it waits before each batch, of at most a tenth of a second.
func (fraudDriver) ReadBatches(ctx context.Context, p driver.Partition, _, _ int64, emit func(event.Batch) error) error {
	params, err := ParseURL(p.URL)
	if err != nil {
		return err
	}
	if params.Rate == 0 {
		return Batches(params, 0, emit)
	}
	rows := int(min(max(params.Rate/10, 1), 4096))
	pause := time.NewTicker(max(1, time.Duration(float64(rows)/params.Rate*float64(time.Second))))
	defer pause.Stop()
	return Batches(params, rows, func(b event.Batch) error {
		select {
		case <-pause.C:
			return emit(b)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}
