package registry

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRollback(t *testing.T) {
	eachStore(t, func(t *testing.T, r, again *Registry) {
		ctx := t.Context()
		for i := range 3 {
			if _, err := r.Publish(ctx, "fraud", newBundle(float64(i))); err != nil {
				t.Fatal(err)
			}
		}
		at := func() int {
			t.Helper()
			ref, err := again.Resolve(ctx, "fraud")
			if err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			return ref.Version
		}
		if _, err := r.Rollback(ctx, "fraud", Champion, ""); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "has no champion") {
			t.Errorf("nothing to roll back: %v", err)
		}
		// Each step moves the alias (back, if the version is -1) and says where it is then.
		for i, step := range []struct{ version, want int }{
			{1, 1}, {2, 2}, {2, 2}, {3, 3},
			{-1, 2}, {-1, 1}, // a second rollback goes on, and 2 twice is one step
			{3, 3}, {-1, 1}, // what was rolled back from is off the way
			{0, 0}, {-1, 1}, // a removed alias comes back
			{0, 0}, {2, 2}, {-1, 1}, // nobody goes back to nothing
		} {
			if step.version >= 0 {
				if err := r.SetAlias(ctx, "fraud", Champion, step.version, "", Any); err != nil {
					t.Fatal(err)
				}
			} else if e, err := again.Rollback(ctx, "fraud", Champion, ""); err != nil || e.Version != step.want || !e.Rollback {
				t.Fatalf("step %d: rolled back: %+v, %v", i, e, err)
			}
			if got := at(); got != step.want {
				t.Fatalf("step %d: champion is %d, want %d", i, got, step.want)
			}
		}
		if _, err := r.Rollback(ctx, "fraud", Champion, ""); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "never pointed at another") {
			t.Errorf("rolled back beyond the first: %v", err)
		}
		// The trail is what the rollbacks would have said.
		if err := r.SetAlias(ctx, "fraud", Champion, 3, "", Any); err != nil {
			t.Fatal(err)
		}
		refs, err := r.Trail(ctx, "fraud", Champion)
		if err != nil || fmt.Sprint(refs) != "[fraud@3 fraud@1]" {
			t.Errorf("trail %v, %v, want versions 3 and 1", refs, err)
		}
		if refs, err := r.Trail(ctx, "fraud", "never"); len(refs) != 0 || err != nil {
			t.Errorf("trail of an alias that is not set: %v, %v", refs, err)
		}
	})
}

func TestWhoAndWhy(t *testing.T) {
	eachStore(t, func(t *testing.T, r, _ *Registry) {
		ctx := t.Context()
		for i := range 2 {
			if _, err := r.Publish(ctx, "fraud", newBundle(float64(i))); err != nil {
				t.Fatal(err)
			}
		}
		_, back := r.As("carol").Rollback(ctx, "fraud", "shadow", "")
		err := errors.Join(
			r.As("alice").SetAlias(ctx, "fraud", Champion, 1, "first", 0),
			r.As("bob").SetAlias(ctx, "fraud", Champion, 2, "", 1),
		)
		if err != nil || !errors.Is(back, ErrNotFound) {
			t.Fatal(err, back)
		}
		e, err := r.As("alice").Rollback(ctx, "fraud", Champion, "too many alerts")
		if want := "champion rolled back from version 2 to 1 by alice: too many alerts"; e.String() != want || err != nil {
			t.Errorf("%v, %v, want %s", e, err, want)
		}
		history, err := r.History(ctx, "fraud")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range history {
			got = append(got, e.String())
		}
		if d := cmp.Diff([]string{
			"version 1 published", "version 2 published",
			"champion set to version 1 by alice: first",
			"champion moved from version 1 to 2 by bob",
			"champion rolled back from version 2 to 1 by alice: too many alerts",
		}, got); d != "" {
			t.Error(d)
		}
	})
}

func TestFollow(t *testing.T) {
	eachStore(t, func(t *testing.T, r, again *Registry) {
		ctx := t.Context()
		for i := range 2 {
			if _, err := r.Publish(ctx, "fraud", newBundle(float64(i))); err != nil {
				t.Fatal(err)
			}
		}
		seen := 0
		for i, step := range []struct {
			set          []int
			moved        bool
			version, now int
		}{
			{nil, false, 0, 0},
			{[]int{1}, true, 1, 1},
			{nil, false, 0, 1},
			{[]int{2, 1, 2}, true, 2, 4},
			{[]int{2}, true, 2, 5}, // promoted once more: who refused it looks again
			{[]int{0}, true, 0, 6},
		} {
			for _, v := range step.set {
				if err := r.SetAlias(ctx, "fraud", "canary", v, "", Any); err != nil {
					t.Fatal(err)
				}
			}
			ref, now, err := again.Follow(ctx, "fraud", "canary", seen)
			if err != nil || ref.Version != step.version || now != step.now || (now != seen) != step.moved {
				t.Fatalf("step %d: %v, move %d, %v; want %+v", i, ref, now, err, step)
			}
			seen = now
		}
	})
}

// TestProcessesRace lets real processes move one alias from the same state: exactly one wins.
func TestProcessesRace(t *testing.T) {
	const racers, rounds = 2, 8
	if where := os.Getenv("MILLRACE_TEST_RACER"); where != "" {
		race(t, where, os.Getenv("MILLRACE_TEST_WHO"))
		return
	}
	where := t.TempDir()
	r, err := Open(t.Context(), where, clock())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range racers {
		if _, err := r.Publish(t.Context(), "fraud", newBundle(float64(i))); err != nil {
			t.Fatal(err)
		}
	}
	type racer struct {
		in  *bufio.Writer
		out *bufio.Scanner
	}
	var all []racer
	for w := range racers {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcessesRace$")
		cmd.Env = append(os.Environ(), "MILLRACE_TEST_RACER="+where, fmt.Sprintf("MILLRACE_TEST_WHO=%d", w+1))
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}()
		all = append(all, racer{bufio.NewWriter(in), bufio.NewScanner(out)})
	}
	for round := range rounds {
		alias := fmt.Sprintf("round%d", round)
		for _, p := range all {
			fmt.Fprintln(p.in, alias)
			p.in.Flush()
		}
		won := 0
		for w, p := range all {
			if !p.out.Scan() {
				t.Fatalf("racer %d ended: %v", w+1, p.out.Err())
			}
			switch p.out.Text() {
			case "won":
				if won != 0 {
					t.Errorf("%s: both won", alias)
				}
				won = w + 1
			case "lost":
			default:
				t.Errorf("%s: racer %d says %s", alias, w+1, p.out.Text())
			}
		}
		ref, err := r.Resolve(t.Context(), "fraud@"+alias)
		if err != nil || won == 0 || ref.Version != won {
			t.Errorf("%s: racer %d won, the alias is at %v, %v", alias, won, ref, err)
		}
	}
}

// race moves each alias that it reads a name of to the racer's version, if it is nowhere.
func race(t *testing.T, where, who string) {
	r, err := Open(t.Context(), where, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	version := int(who[0] - '0')
	for names := bufio.NewScanner(os.Stdin); names.Scan(); {
		err := r.As(who).SetAlias(t.Context(), "fraud", names.Text(), version, "", 0)
		switch {
		case err == nil:
			fmt.Println("won")
		case errors.Is(err, ErrConflict):
			fmt.Println("lost")
		default:
			fmt.Println(err)
		}
	}
}
