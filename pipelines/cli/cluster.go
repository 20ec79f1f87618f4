package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
)

// flinkCommand holds the verbs of a local Flink cluster.
func flinkCommand(stdout io.Writer, stderr *console) *cobra.Command {
	cmd := &cobra.Command{
		Use: "flink", Short: "Start and end a Flink cluster on this machine",
		Example: "  millrace flink up --taskmanagers 2\n  millrace flink status\n  millrace flink down",
		Args:    exactly(0, "a verb: up, down or status"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var dir string
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "the cluster's folder (default: millrace/flink in the user's cache)")
	cmd.AddCommand(flinkUpCommand(stdout, stderr, &dir), flinkDownCommand(stdout, &dir), flinkStatusCommand(stdout, &dir))
	return cmd
}

func flinkUpCommand(stdout io.Writer, stderr *console, dir *string) *cobra.Command {
	var o local.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster with Beam's job server; the first time installs them",
		Example: "  millrace flink up\n  millrace flink up --taskmanagers 2 --slots 4 --ha",
		Args:    exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Dir = *dir
			o.Progress = func(s string) { fmt.Fprintln(stderr, "millrace:", s) }
			c, err := local.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			return describeCluster(stdout, c)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.TaskManagers, "taskmanagers", 1, "number of TaskManagers")
	f.IntVar(&o.Slots, "slots", 2, "subtasks that a TaskManager runs side by side")
	f.BoolVar(&o.HighAvailability, "ha", false, "jobs outlive their JobManager, by a ZooKeeper")
	f.BoolVar(&o.WorkerPool, "worker-pool", false, "start a pool of workers for the environment EXTERNAL at "+local.PoolAddress+", open to the network")
	f.StringVar(&o.JobServerJar, "job-server", "", "a released job server for Flink 1.19, a jar (default: one is assembled)")
	return cmd
}

func flinkDownCommand(stdout io.Writer, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the cluster and all its workers; checkpoints and savepoints stay",
		Example: "  millrace flink down",
		Args:    exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := local.Open(*dir)
			if err != nil {
				return err
			}
			if err := c.Down(cmd.Context()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(stdout, "the cluster has ended")
			return err
		},
	}
}

func flinkStatusCommand(stdout io.Writer, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the cluster's addresses and processes",
		Example: "  millrace flink status",
		Args:    exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			c, err := local.Open(*dir)
			if err != nil {
				return err
			}
			return describeCluster(stdout, c)
		},
	}
}

// describeCluster prints how a cluster is reached, and what runs.
func describeCluster(stdout io.Writer, c *local.Cluster) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	kind, config := c.Environment()
	fmt.Fprintf(w, "job server\t%s\ndashboard\thttp://%s\nenvironment\t%s %s\nfolder\t%s\n", c.JobServer(), c.REST(), kind, config, c.Dir())
	pids, metrics := c.PIDs(), c.Metrics()
	for _, name := range slices.Sorted(maps.Keys(pids)) {
		fmt.Fprintf(w, "%s\tpid %d", name, pids[name])
		if m, ok := metrics[name]; ok {
			fmt.Fprintf(w, ", metrics http://%s", m)
		}
		fmt.Fprintln(w)
	}
	if len(pids) == 0 {
		fmt.Fprintln(w, "nothing runs\tmillrace flink down, then up")
	}
	return w.Flush()
}
