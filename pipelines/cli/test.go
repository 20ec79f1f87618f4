package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/pipelines/spec/cases"
)

const testHelp = `Runs the cases of a use case's own test file, NAME_test.yaml beside NAME.yaml, through the graph that
scores, in this process:

  cases:
    - name: a card in haste
      events:                                  # or lines of JSON as texts, broken ones too
        - {TRANSACTION_ID: 1, TX_DATETIME: 2018-06-01T10:00:00Z, CUSTOMER_ID: 7, TERMINAL_ID: 70, TX_AMOUNT: 10}
        - {TRANSACTION_ID: 2, TX_DATETIME: 2018-06-01T10:05:00Z, CUSTOMER_ID: 7, TERMINAL_ID: 70, TX_AMOUNT: 30}
        - {TRANSACTION_ID: 3, TX_DATETIME: 2018-06-01T10:06:00Z, CUSTOMER_ID: 7, TERMINAL_ID: 70, TX_AMOUNT: -1}
      scores: {2: 0.97}                        # instead of a model, or model: fraud@3
      expect:
        2: {features: {customer_tx_count_1d: 2, customer_tx_mean_1d: 20}, decision: block}
        3: {dead_letter: range}

What differs is printed with the rows that were in the window. Exit code 1 if anything differs, 2 if a
test file has faults.`

func testCommand(stdout io.Writer) *cobra.Command {
	var sets []string
	var registry string
	cmd := &cobra.Command{
		Use:     "test USECASE [FILE...]",
		Short:   "Run a use case's own tests",
		Long:    testHelp,
		Example: "  millrace test fraud\n  millrace test fraud.yaml more_test.yaml",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("test needs a use case: a built-in name or a file")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := spec.Load(args[0], sets)
			if err != nil {
				return err
			}
			files := args[1:]
			if len(files) == 0 {
				files = []string{""} // the one beside the use case
			}
			var all []*spec.Tests
			for _, file := range files {
				t, err := u.LoadTests(file)
				if err != nil {
					return err
				}
				all = append(all, t)
			}
			failed := 0
			for _, t := range all {
				found, err := cases.Run(cmd.Context(), u, t, registry)
				if err != nil {
					return err
				}
				failed += printCases(stdout, t, found)
			}
			if failed > 0 {
				return fmt.Errorf("%d expectations of %s do not hold", failed, u.Name)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&sets, "set", nil, "override a field of the use case, as path=value; may be repeated")
	f.StringVar(&registry, "registry", "", "registry of the models that cases name: a folder or a URL (default: the file's)")
	return cmd
}

// printCases prints a line a case, with what differs below it, and returns how much that is.
func printCases(w io.Writer, t *spec.Tests, found []cases.Mismatch) int {
	byCase := map[string][]cases.Mismatch{}
	for _, m := range found {
		byCase[m.Case] = append(byCase[m.Case], m)
	}
	for _, c := range t.Cases {
		if len(byCase[c.Name]) == 0 {
			fmt.Fprintf(w, "ok    %s\n", c.Name)
			continue
		}
		fmt.Fprintf(w, "FAIL  %s\n", c.Name)
		for _, m := range byCase[c.Name] {
			fmt.Fprintf(w, "      event %s, %s: want %s, got %s\n", m.Event, m.What, m.Want, m.Got)
			for _, line := range m.Why {
				fmt.Fprintf(w, "          %s\n", line)
			}
		}
	}
	return len(found)
}
