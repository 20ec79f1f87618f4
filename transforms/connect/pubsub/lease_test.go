package pubsub

import (
	"context"
	"net"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// oneMessage is a service that gives one message, and tells for how many seconds the reader asks to keep it.
type oneMessage struct {
	pubsubpb.UnimplementedSubscriberServer
	kept chan int32
}

func (s *oneMessage) GetSubscription(_ context.Context, in *pubsubpb.GetSubscriptionRequest) (*pubsubpb.Subscription, error) {
	return &pubsubpb.Subscription{Name: in.Subscription}, nil
}

func (s *oneMessage) StreamingPull(stream pubsubpb.Subscriber_StreamingPullServer) error {
	err := stream.Send(&pubsubpb.StreamingPullResponse{ReceivedMessages: []*pubsubpb.ReceivedMessage{
		{AckId: "1", Message: &pubsubpb.PubsubMessage{MessageId: "1", Data: []byte("{}"), PublishTime: timestamppb.Now()}},
	}})
	if err == nil {
		<-stream.Context().Done()
	}
	return err
}

func (s *oneMessage) ModifyAckDeadline(_ context.Context, in *pubsubpb.ModifyAckDeadlineRequest) (*emptypb.Empty, error) {
	s.kept <- in.AckDeadlineSeconds
	return &emptypb.Empty{}, nil
}

// TestLease: a message that was taken is asked to be kept for the whole lease from the first, and again and again for
// as long as it waits.
func TestLease(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for leases")
	}
	defer func(was time.Duration) { lease = was }(lease)
	for _, c := range []struct {
		lease time.Duration
		asked int // times; the client extends every 5 s of a short one
	}{{lease, 1}, {shortLease, 3}} {
		lease = c.lease
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		service, server := &oneMessage{kept: make(chan int32, 100)}, grpc.NewServer()
		pubsubpb.RegisterSubscriberServer(server, service)
		go func() { _ = server.Serve(listener) }()
		f, err := sourceDriver{}.Follow(t.Context(), "pubsub://millrace/lease?emulator="+listener.Addr().String(), []driver.Position{{Partition: "projects/millrace/subscriptions/lease"}})
		if err != nil {
			t.Fatal(err)
		}
		for range c.asked {
			select {
			case seconds := <-service.kept:
				if got := time.Duration(seconds) * time.Second; got != c.lease {
					t.Errorf("a lease of %v: it is asked to be kept for %v", c.lease, got)
				}
			case <-time.After(patience):
				t.Fatalf("a lease of %v: nobody asks for the message to be kept", c.lease)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
	}
}
