// Command report keeps what benchmarks print as files and makes a document with
// tables and plots of them. It measures nothing:
//
//	go test -bench … | go run ./test/report record SUITE    writes docs/benchmarks/results/SUITE.json
//	go run ./test/report write                              writes docs/benchmarks/report.md and its plots
//
// scripts/bench calls both. It is no part of the server.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

const (
	folder  = "docs/benchmarks"
	results = folder + "/results"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "record":
		return record(args[1], os.Stdin, filepath.Join(results, args[1]+".json"))
	case len(args) == 1 && args[0] == "write":
		return write(results, folder)
	}
	return fmt.Errorf("use: report record SUITE <output, or report write")
}
