package main

import (
	"math"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// A chart is a bar chart of one figure of each system in one case.
type chart struct {
	file, name, title, axis string
	figure                  func(measurement) float64
}

var charts = []chart{
	{"uncontended.svg", uncontended, "One goroutine, no contention", "acquisitions per second", rate},
	{"one-process.svg", oneProcess, "64 goroutines of one process, one key",
		"acquisitions per second, logarithmic", rate},
	{"256-keys.svg", manyKeys, "256 goroutines of one process, each with a key of its own",
		"acquisitions per second", rate},
	{"clients.svg", clients(8), "8 clients, one key", "acquisitions per second", rate},
	{"hand-off.svg", handOver, "From unlock in one client to lock in another, median",
		"ms, logarithmic", p50},
	{"parked.svg", park, "200 waiters in 20 clients, parked",
		"commands per second, logarithmic", commandsPerSecond},
}

// logarithmic has the cases in which systems differ by orders of magnitude.
var logarithmic = map[string]bool{oneProcess: true, handOver: true, park: true}

// plot draws the charts into dir. It leaves out a chart without figures.
func (r *report) plot(dir string) error {
	for _, c := range charts {
		if r.find(c.name, ours) == nil {
			continue
		}
		if err := r.bars(c, filepath.Join(dir, c.file)); err != nil {
			return err
		}
	}
	if least, _ := r.flatness(); least == 0 {
		return nil
	}
	return r.lines(filepath.Join(dir, "commands.svg"))
}

func (r *report) bars(c chart, file string) error {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = c.title, c.axis
	floor := 0.0
	var names []string
	var values plotter.Values
	for _, res := range r.Results {
		if v := c.figure(res.Median); res.Case == c.name && v > 0 {
			names, values = append(names, res.System), append(values, v)
			if floor == 0 || v < floor {
				floor = v
			}
		}
	}
	if !logarithmic[c.name] {
		floor = 0
	}
	for i, v := range values {
		bar, err := plotter.NewBarChart(plotter.Values{v}, vg.Points(40))
		if err != nil {
			return err
		}
		bar.XMin, bar.Color = float64(i), plotutil.Color(2)
		if strings.HasPrefix(names[i], ours) {
			bar.Color = plotutil.Color(0)
		}
		bar.LineStyle.Width = 0
		p.Add(bar)
	}
	if logarithmic[c.name] {
		p.Y.Scale, p.Y.Tick.Marker, p.Y.Min = logBars{}, plot.LogTicks{Prec: -1}, floor/2
	} else {
		p.Y.Min = 0
	}
	p.NominalX(names...)
	return p.Save(8*vg.Inch, 4*vg.Inch, file)
}

// logBars is a logarithmic scale for bars. A bar begins at 0, which logBars
// draws at the axis.
type logBars struct{}

func (logBars) Normalize(min, max, x float64) float64 {
	return plot.LogScale{}.Normalize(min, max, math.Max(x, min))
}

// lines draws the commands per acquisition against the number of clients.
func (r *report) lines(file string) error {
	p := plot.New()
	p.Title.Text = "Commands per acquisition"
	p.X.Label.Text, p.Y.Label.Text = "clients, logarithmic", "commands, logarithmic"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	for i, s := range systems {
		var points plotter.XYs
		for _, n := range crowds {
			if res := r.find(clients(n), s.name); res != nil && res.Median.Commands > 0 {
				points = append(points, plotter.XY{X: float64(n), Y: res.Median.Commands})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, dots.Color, dots.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(line, dots)
		p.Legend.Add(s.name, line, dots)
	}
	return p.Save(8*vg.Inch, 5*vg.Inch, file)
}
