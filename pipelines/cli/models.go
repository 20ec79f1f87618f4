package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/models/registry"
)

// opener opens the registry that the flags of models name.
type opener func(context.Context) (*registry.Registry, error)

// move is what promote and rollback are told alike.
type move struct{ alias, who, why string }

func (m *move) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.alias, "alias", registry.Champion, "the alias to move: champion, challenger, shadow, or any other name")
	cmd.Flags().StringVar(&m.who, "who", whoami(), "who moves it, for the history")
	cmd.Flags().StringVar(&m.why, "why", "", "the reason, for the history")
}

func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

func promoteCommand(stdout io.Writer, open opener) *cobra.Command {
	var m move
	expect := registry.Any
	cmd := &cobra.Command{
		Use: "promote NAME VERSION", Short: "Point an alias at a version, once it has been checked",
		Example: "  millrace models promote fraud 5 --why 'gains 0.01 on July'\n  millrace models promote fraud latest --alias shadow",
		Args:    exactly(2, "a model's name and a version"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			r, err := open(ctx)
			if err != nil {
				return err
			}
			defer r.Close()
			ref, err := r.Verify(ctx, args[0]+"@"+args[1])
			if err != nil {
				return err
			}
			before, err := r.Resolve(ctx, ref.Name+"@"+m.alias)
			if err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
			if !cmd.Flags().Changed("expect") {
				expect = before.Version
			}
			if err := r.As(m.who).SetAlias(ctx, ref.Name, m.alias, ref.Version, m.why, expect); err != nil {
				return err
			}
			switch before.Version {
			case 0:
				fmt.Fprintf(stdout, "%s of %s is version %d; it was not set before\n", m.alias, ref.Name, ref.Version)
			case ref.Version:
				fmt.Fprintf(stdout, "%s of %s is version %d, as before: streams that refused it look at it again\n", m.alias, ref.Name, ref.Version)
			default:
				fmt.Fprintf(stdout, "%s of %s is version %d; it was %d (to undo: millrace models rollback %s --alias %s)\n", m.alias, ref.Name, ref.Version, before.Version, ref.Name, m.alias)
			}
			return warnOfFeatures(ctx, stdout, r, before, ref)
		},
	}
	m.flags(cmd)
	cmd.Flags().IntVar(&expect, "expect", registry.Any, "move it only if it is at this version, 0 for none (default: where it is)")
	return cmd
}

// warnOfFeatures tells who promotes a version of other features that running streams refuse it.
func warnOfFeatures(ctx context.Context, stdout io.Writer, r *registry.Registry, before, after registry.Ref) error {
	if before.Version == 0 || before.Version == after.Version {
		return nil
	}
	was, err := r.Manifest(ctx, before)
	if err != nil {
		return nil // the version that is left may be what is broken
	}
	is, err := r.Manifest(ctx, after)
	if err == nil && is.Fingerprint != was.Fingerprint {
		fmt.Fprintf(stdout, "warning: it was trained on features %s, version %d on %s: a graph that computes the old ones refuses it\n", is.Fingerprint, before.Version, was.Fingerprint)
	}
	return err
}

func rollbackCommand(stdout io.Writer, open opener) *cobra.Command {
	var m move
	cmd := &cobra.Command{
		Use: "rollback NAME", Short: "Move an alias back to the version before",
		Example: "  millrace models rollback fraud --why 'too many alerts'",
		Args:    exactly(1, "a model's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			r, err := open(ctx)
			if err != nil {
				return err
			}
			defer r.Close()
			trail, err := r.Trail(ctx, args[0], m.alias)
			if err != nil {
				return err
			}
			current, err := r.Resolve(ctx, args[0]+"@"+m.alias)
			if err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
			if i := slices.IndexFunc(trail, func(ref registry.Ref) bool { return ref != current }); i >= 0 {
				if _, err := r.Load(ctx, trail[i]); err != nil {
					return fmt.Errorf("the version before is no longer fit to serve, promote another: %w", err)
				}
			}
			e, err := r.As(m.who).Rollback(ctx, args[0], m.alias, m.why)
			if err != nil {
				return err
			}
			was := fmt.Sprintf("it was %d", e.Previous)
			if e.Previous == 0 {
				was = "it had been removed"
			}
			fmt.Fprintf(stdout, "%s of %s is version %d again; %s\n", m.alias, args[0], e.Version, was)
			return nil
		},
	}
	m.flags(cmd)
	return cmd
}
