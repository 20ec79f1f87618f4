package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
)

func jobsCommand(stdout io.Writer) *cobra.Command {
	var rest, dir string
	cmd := &cobra.Command{
		Use: "jobs", Short: "Look at the jobs of a Flink cluster, stop them",
		Long:    "JOB is Flink's id of a job, the beginning of one, or the job's name.",
		Example: "  millrace jobs list\n  millrace jobs savepoint fraud --dir s3://bucket/savepoints",
	}
	cmd.PersistentFlags().StringVar(&rest, "rest", "", "Flink's REST interface, a URL or host:port (default: that of the local cluster if one runs, else localhost:8081)")
	open := func() (*flink.Cluster, error) {
		at := cmp.Or(rest, "localhost:8081")
		if near, ok := nearCluster(); ok && rest == "" {
			at = near.REST()
		}
		c, err := flink.Open(at)
		if err != nil {
			return nil, usageError{err}
		}
		return c, nil
	}
	// of runs a verb on the job that the argument names.
	of := func(verb func(ctx context.Context, c *flink.Cluster, job flink.Status) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			job, err := c.Find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return verb(cmd.Context(), c, job)
		}
	}
	list := &cobra.Command{
		Use: "list", Short: "List the jobs that the cluster remembers", Example: "  millrace jobs list", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			return listJobs(cmd.Context(), stdout, c)
		},
	}
	show := &cobra.Command{
		Use: "show JOB", Short: "Show a job's stages, watermarks, counters and last failure", Example: "  millrace jobs show fraud", Args: exactly(1, "a job"),
		RunE: of(func(ctx context.Context, c *flink.Cluster, job flink.Status) error {
			return showJob(ctx, stdout, c, job)
		}),
	}
	cancel := &cobra.Command{
		Use: "cancel JOB", Short: "End a job at once, without a savepoint", Example: "  millrace jobs cancel fraud", Args: exactly(1, "a job"),
		RunE: of(func(ctx context.Context, c *flink.Cluster, job flink.Status) error {
			if err := c.Cancel(ctx, job.ID); err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%s %s is being cancelled\n", job.ID, job.Name)
			return nil
		}),
	}
	savepoint := &cobra.Command{
		Use: "savepoint JOB", Short: "Write a savepoint of a job, which goes on", Example: "  millrace jobs savepoint fraud --dir s3://bucket/savepoints", Args: exactly(1, "a job"),
		RunE: of(func(ctx context.Context, c *flink.Cluster, job flink.Status) error {
			path, err := c.Savepoint(ctx, job.ID, dir)
			return saved(ctx, stdout, c, job, path, err)
		}),
	}
	drain := &cobra.Command{
		Use: "drain JOB", Short: "Stop a job with a savepoint, from which another can go on", Example: "  millrace jobs drain fraud --dir s3://bucket/savepoints", Args: exactly(1, "a job"),
		RunE: of(func(ctx context.Context, c *flink.Cluster, job flink.Status) error {
			path, err := c.Stop(ctx, job.ID, dir)
			return saved(ctx, stdout, c, job, path, err)
		}),
	}
	for _, verb := range []*cobra.Command{savepoint, drain} {
		verb.Flags().StringVar(&dir, "dir", "", "folder for the savepoint, a URL that the cluster can write (default: the cluster's)")
	}
	cmd.AddCommand(list, show, cancel, savepoint, drain)
	return cmd
}

func listJobs(ctx context.Context, w io.Writer, c *flink.Cluster) error {
	jobs, err := c.Jobs(ctx)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, j := range jobs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\tfor %s\n", j.ID, j.Name, j.State, j.Start.UTC().Format(time.RFC3339), j.Duration.Round(time.Second))
	}
	return t.Flush()
}

func showJob(ctx context.Context, w io.Writer, c *flink.Cluster, job flink.Status) error {
	d, err := c.Job(ctx, job.ID)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s  %s  %s  since %s, for %s\n", d.ID, d.Name, d.State, d.Start.UTC().Format(time.RFC3339), d.Duration.Round(time.Second))
	for _, v := range d.Vertices {
		fmt.Fprintln(w, "stage", v)
	}
	for _, name := range sortedKeys(d.Counters) {
		fmt.Fprintln(w, "count", name, d.Counters[name])
	}
	if d.Checkpoints+d.FailedCheckpoints > 0 {
		last := "none yet"
		if d.Checkpoints > 0 {
			last = "the last begun at " + d.LastCheckpoint.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%d checkpoints, %d failed, %s\n", d.Checkpoints, d.FailedCheckpoints, last)
	}
	short, err := c.Failure(ctx, job.ID)
	if err == nil && short != "" {
		fmt.Fprintln(w, "failed last:", short)
	}
	return err
}

// saved says where a savepoint is, and notes beside it what it holds.
func saved(ctx context.Context, w io.Writer, c *flink.Cluster, job flink.Status, path string, err error) error {
	if err != nil {
		return err
	}
	if err := c.Note(ctx, job.ID, path); err != nil {
		return err
	}
	fmt.Fprintln(w, path)
	fmt.Fprintf(w, "go on from it: millrace run USECASE --runner flink --flink savepoint_path=%s\n", path)
	return nil
}
