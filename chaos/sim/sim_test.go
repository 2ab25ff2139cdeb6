package sim

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9/logging"
	"golang.org/x/sys/unix"
)

var (
	seedFlag = flag.Uint64("seed", 0, "the seed of the only run; 0: many runs")
	from     = flag.Uint64("from", 1, "the first seed")
	verbose  = flag.Bool("digests", false, "")
	runs     = flag.Int("runs", 100, "how many runs")
)

func TestSim(t *testing.T) {
	logging.Disable()
	synctest.Test(t, func(t *testing.T) {
		runtime.GOMAXPROCS(1)
		if *seedFlag != 0 {
			o := Run(NewPlan(*seedFlag), true)
			for _, line := range o.Story {
				fmt.Println(line)
			}
			for _, v := range o.Report.Violations {
				t.Errorf("%s, key %d: %s", v.Judge, v.Key, v.What)
			}
			return
		}
		ops, grants, differ := 0, 0, 0
		for seed := *from - 1; seed < *from-1+uint64(*runs); seed++ {
			begin := real()
			o := Run(NewPlan(seed+1), false)
			if *verbose {
				fmt.Printf("seed %d %x\n", seed+1, o.Digest)
			}
			if d := real() - begin; d > 0.3 {
				fmt.Printf("seed %d took %.2f s, %d ops, %v %v\n", seed+1, d, o.Ops, o.Took, o.Plan.Faults)
			}
			ops += o.Ops
			grants += o.Report.Grants
			for _, v := range o.Report.Violations {
				t.Errorf("seed %d: %s, key %d: %.300s", seed+1, v.Judge, v.Key, v.What)
			}
			if seed%5 == 0 {
				if o2 := Run(NewPlan(seed+1), false); o2.Digest != o.Digest {
					differ++
				}
			}
		}
		fmt.Println(ops, "ops", grants, "grants", differ, "differ of", *runs/10)
	})
}

func real() float64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return float64(ts.Nano()) / 1e9
}
