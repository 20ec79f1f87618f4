// Package cli holds the verbs of the millrace command: it parses, calls, shows progress and sets the
// exit code. There is no logic of streams or models here.
//
// Exit codes: 0 ok, 1 the job failed, 2 usage or a use-case file with faults.
package cli
