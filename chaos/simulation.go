package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/warlock-go/warlock/chaos/sim"
)

// runSimulation searches seeds of the simulation for violations.
func runSimulation(ctx context.Context, o options, self string, stdout, stderr io.Writer) error {
	fmt.Fprintf(stdout, "simulation from seed %d, %v\n", o.seed, o.duration)
	bar := newBar("simulation", o.duration, stderr)
	search := &sim.Search{
		Program: self, From: o.seed, For: o.duration, Again: 50, Failures: 5, Shrinks: 1,
		Quorums: o.quorums,
		Progress: func(t *sim.Totals) {
			bar.show(fmt.Sprintf("%d runs, %d ops, %d failed", t.Runs, t.Ops, len(t.Failed)), t.Grants)
		},
	}
	total, err := search.Run(ctx)
	bar.end()
	total.Print(stdout)
	if err != nil {
		return err
	}
	return total.Err()
}

// mostSeeds is after how many seeds a mutant should have been caught.
const mostSeeds = 2000

// runSimulatedMutants runs mutants in the simulation, and prints how many seeds
// it took to catch each.
func runSimulatedMutants(ctx context.Context, o options, stdout, stderr io.Writer) error {
	mutants, err := prepareMutants(ctx, o.only)
	if err != nil {
		return err
	}
	defer os.RemoveAll(mutants.dir)
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "mutant\tcaught by\tafter seeds")
	var uncaught []string
	for _, m := range mutants.chosen {
		program, err := m.build(ctx, mutants.source, mutants.dir)
		if err != nil {
			return err
		}
		judges, seeds, err := searchMutant(ctx, program, o)
		if err != nil {
			return fmt.Errorf("mutant %q: %w", m.name, err)
		}
		if len(judges) == 0 {
			uncaught = append(uncaught, m.name)
			judges = []string{"NOBODY"}
		}
		by := strings.Join(judges, ", ")
		fmt.Fprintf(stderr, "%-50s %s, after %d seeds\n", m.name, by, seeds)
		fmt.Fprintf(t, "%s\t%s\t%d\n", m.name, by, seeds)
	}
	_ = t.Flush() // fails only if stdout does
	if len(uncaught) > 0 {
		return fmt.Errorf("not caught in %d seeds: %s", mostSeeds, strings.Join(uncaught, "; "))
	}
	return nil
}

// searchMutant searches seeds until a judge catches the mutant. It returns the
// judges, and after how many seeds that was. A mutant whose processes end by a
// panic, or hang, is caught too.
func searchMutant(
	ctx context.Context, program string, o options,
) (judges []string, seeds int, err error) {
	search := &sim.Search{
		Program: program, From: o.seed, Most: mostSeeds, For: 10 * time.Minute, Failures: 1,
		Quorums: o.quorums,
	}
	total, err := search.Run(ctx)
	if err != nil && len(total.Failed) == 0 {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		return []string{"the process fails"}, total.Runs + 1, nil
	}
	known := make(map[string]bool)
	for _, r := range total.Failed {
		for _, v := range r.Violations {
			if !known[v.Judge] {
				known[v.Judge] = true
				judges = append(judges, v.Judge)
			}
		}
	}
	return judges, total.Runs, nil
}
