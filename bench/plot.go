package main

import (
	"bytes"
	"cmp"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A chart is a bar chart of one figure of each system in one case.
type chart struct {
	file, name, title, axis string
	figure                  func(measurement) float64
	least                   bool // the least figure is the best
}

var charts = []chart{
	{"uncontended.svg", uncontended, "One goroutine, no contention", "locks per second", rate, false},
	{"one-process.svg", oneProcess, "64 goroutines of one process, one key", "locks per second", rate, false},
	{"hot-keys.svg", hotKeys, "64 goroutines of one process, 64 hot keys", "locks per second", rate, false},
	{"256-keys.svg", manyKeys, "256 goroutines of one process, 256 keys", "locks per second", rate, false},
	{"clients.svg", clients(8), "8 clients, one key", "locks per second", rate, false},
	{"hand-off.svg", handOver, "From unlock in one client to lock in another, median", "ms", p50, true},
	{"parked.svg", park, "200 waiters in 20 clients, parked", "commands per second", commandsPerSecond, true},
}

// logarithmic has the cases in which systems differ by orders of magnitude.
var logarithmic = map[string]bool{oneProcess: true, hotKeys: true, handOver: true, park: true}

// The colours of the pictures, on a ground of their own: a page may be dark.
var (
	ground = color.White
	ink    = color.RGBA{R: 0x24, G: 0x29, B: 0x2f, A: 0xff}
	strong = color.RGBA{R: 0xd9, G: 0x48, B: 0x0f, A: 0xff} // of warlock
	quiet  = color.RGBA{R: 0xa9, G: 0xb4, B: 0xc0, A: 0xff} // of the others
)

const (
	width     = 8 * vg.Inch
	barWidth  = vg.Length(16)
	labelSize = vg.Length(11)
	margin    = vg.Length(12)
)

// plot draws the charts into dir. It leaves out a chart without figures.
func (r *report) plot(dir string) error {
	for _, c := range charts {
		bars := r.barsOf(c)
		if len(bars) == 0 {
			continue
		}
		p, err := c.draw(bars)
		if err != nil {
			return err
		}
		height := vg.Length(len(bars))*1.6*barWidth + vg.Inch
		if err := save(p, height, filepath.Join(dir, c.file)); err != nil {
			return err
		}
	}
	if least, _ := r.flatness(); least == 0 {
		return nil
	}
	p, err := r.lines()
	if err != nil {
		return err
	}
	return save(p, 4.5*vg.Inch, filepath.Join(dir, "commands.svg"))
}

// newPlot returns an empty plot in the style of them all.
func newPlot(title, axis string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = ground
	p.Title.Text, p.X.Label.Text = title, axis
	p.Title.Padding = vg.Points(10)
	p.Title.TextStyle.Font = sans(14)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font, a.Tick.Label.Font = sans(labelSize), sans(labelSize)
		a.Color, a.Tick.Color = quiet, quiet
		a.Label.TextStyle.Color, a.Tick.Label.Color = ink, ink
	}
	p.Title.TextStyle.Color = ink
	return p
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// save writes the plot as a picture whose letters any page can show.
func save(p *plot.Plot, height vg.Length, file string) error {
	canvas, err := draw.NewFormattedCanvas(width, height, "svg")
	if err != nil {
		return err
	}
	whole := draw.New(canvas)
	whole.SetColor(ground)
	whole.Fill(whole.Rectangle.Path())
	p.Draw(draw.Crop(whole, margin, -margin, margin, -margin))
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	svg := strings.ReplaceAll(picture.String(),
		"font-family:Liberation Sans;", "font-family:Liberation Sans,Helvetica,Arial,sans-serif;")
	return os.WriteFile(file, []byte(svg), 0o644)
}

// A bar is the figure of a system.
type bar struct {
	system string
	value  float64
}

func (b bar) ours() bool { return strings.HasPrefix(b.system, ours) }

// barsOf returns the bars of a chart, the worst first: it is drawn undermost.
func (r *report) barsOf(c chart) (bars []bar) {
	for _, res := range r.Results {
		if v := c.figure(res.Median); res.Case == c.name && v > 0 {
			bars = append(bars, bar{res.System, v})
		}
	}
	slices.SortFunc(bars, func(a, b bar) int {
		if c.least {
			a, b = b, a
		}
		return cmp.Compare(a.value, b.value)
	})
	return bars
}

// draw draws horizontal bars, with their figures at their ends.
func (c chart) draw(bars []bar) (*plot.Plot, error) {
	p := newPlot(c.title, c.axis)
	floor, top := bars[0].value, bars[0].value
	var names []string
	for i, b := range bars {
		floor, top = min(floor, b.value), max(top, b.value)
		names = append(names, b.system)
		drawn, err := plotter.NewBarChart(plotter.Values{b.value}, barWidth)
		if err != nil {
			return nil, err
		}
		drawn.Horizontal, drawn.XMin = true, float64(i)
		drawn.Color, drawn.LineStyle.Width = quiet, 0
		if b.ours() {
			drawn.Color = strong
		}
		p.Add(drawn)
		end := point{b.value, float64(i), readable(b.value)}
		if err := end.label(p, draw.YCenter); err != nil {
			return nil, err
		}
	}
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(bars))-0.4
	p.X.Min, p.X.Max = 0, top*1.15
	p.X.Tick.Marker = plain10{}
	if logarithmic[c.name] {
		p.X.Label.Text += ", each mark ten times the last"
		p.X.Scale, p.X.Tick.Marker = logBars{}, decades{}
		p.X.Min, p.X.Max = decade(floor/2), top*4
	}
	return p, nil
}

// A point is a place in a plot, and what is said beside it.
type point struct {
	x, y float64
	text string
}

// label writes the text to the right of the point.
func (pt point) label(p *plot.Plot, align text.YAlignment) error {
	labels, err := plotter.NewLabels(plotter.XYLabels{
		XYs: plotter.XYs{{X: pt.x, Y: pt.y}}, Labels: []string{pt.text},
	})
	if err != nil {
		return err
	}
	labels.Offset = vg.Point{X: 5, Y: 1.5}
	labels.TextStyle[0].Font, labels.TextStyle[0].Color = sans(labelSize), ink
	labels.TextStyle[0].YAlign = align
	p.Add(labels)
	return nil
}

// readable returns x with two digits or three, as people read it: 1.9 M.
func readable(x float64) string {
	unit := ""
	switch {
	case x >= 1e6:
		x, unit = x/1e6, " M"
	case x >= 1e4:
		x, unit = x/1e3, " k"
	}
	digits := max(0, 1-int(math.Floor(math.Log10(x))))
	return strconv.FormatFloat(x, 'f', digits, 64) + unit
}

// plain10 are the ticks of a linear axis.
type plain10 struct{}

func (plain10) Ticks(min, max float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(min, max)
	for i, t := range ticks {
		if t.Label != "" && t.Value > 0 {
			ticks[i].Label = readable(t.Value)
		}
	}
	return ticks
}

// decades are the powers of ten on a logarithmic axis.
type decades struct{}

func (decades) Ticks(min, max float64) (ticks []plot.Tick) {
	for v := decade(min); v <= max; v *= 10 {
		if v >= min*(1-1e-9) {
			ticks = append(ticks, plot.Tick{Value: v, Label: tickLabel(v)})
		}
	}
	return ticks
}

func tickLabel(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', -1, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'f', -1, 64) + " k"
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}

// decade returns the highest power of ten that is not above x.
func decade(x float64) float64 { return math.Pow(10, math.Floor(math.Log10(x)+1e-9)) }

// logBars is a logarithmic scale for bars. A bar begins at 0, which logBars
// draws at the axis.
type logBars struct{}

func (logBars) Normalize(min, max, x float64) float64 {
	return plot.LogScale{}.Normalize(min, max, math.Max(x, min))
}

// A curve is the commands per acquisition of a system, by the number of clients.
type curve struct {
	system string
	points plotter.XYs
}

func (c curve) end() plotter.XY { return c.points[len(c.points)-1] }

func (r *report) curves() (all []curve) {
	for _, s := range systems {
		c := curve{system: s.name}
		for _, n := range crowds {
			if res := r.find(clients(n), s.name); res != nil && res.Median.Commands > 0 {
				c.points = append(c.points, plotter.XY{X: float64(n), Y: res.Median.Commands})
			}
		}
		if len(c.points) > 0 {
			all = append(all, c)
		}
	}
	return all
}

func (c curve) draw(p *plot.Plot) error {
	line, err := plotter.NewLine(c.points)
	if err != nil {
		return err
	}
	line.Color, line.Width = quiet, vg.Points(1.5)
	if c.system == ours {
		line.Color, line.Width = strong, vg.Points(4)
	}
	p.Add(line)
	return nil
}

// lines draws the curves. Each has its name at its end, and names that would
// meet stand one above the other.
func (r *report) lines() (*plot.Plot, error) {
	p := newPlot("Commands of the server for each lock, by the number of clients", "clients")
	curves := r.curves()
	slices.SortFunc(curves, func(a, b curve) int { return cmp.Compare(a.end().Y, b.end().Y) })
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, at(crowds)
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	const apart = 1.22 // as a factor: the scale is logarithmic
	free := 0.0
	for _, c := range curves {
		place := max(c.end().Y, free)
		free = place * apart
		if err := (point{c.end().X, place, c.system}).label(p, draw.YCenter); err != nil {
			return nil, err
		}
	}
	for _, c := range slices.Backward(curves) { // the lowest on top of the others
		if err := c.draw(p); err != nil {
			return nil, err
		}
	}
	p.X.Max *= 2.6 // room for the names
	p.Y.Min, p.Y.Max = 1, max(100, free)
	return p, nil
}

// at are ticks at so many clients.
type at []int

func (a at) Ticks(_, _ float64) (ticks []plot.Tick) {
	for _, n := range a {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
	}
	return ticks
}
