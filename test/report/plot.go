package main

import (
	"bytes"
	"image/color"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"millpond.dev/millpond/internal/atomicfile"
)

// line is one curve of a plot.
type line struct {
	name   string
	points plotter.XYs
	color  color.Color
	dashed bool
	// marks puts a dot at each point; bare draws no line between them.
	marks, bare bool
}

// picture is one plot.
type picture struct {
	file, title, x, y string
	logX, logY        bool
	ticksX, ticksY    []plot.Tick
	lines             []line
	legendLeft        bool
	legendTop         bool
	// maxX and maxY leave room for the legend; 0 is as far as the lines go.
	maxX, maxY float64
	// legendAt is how far a legend on the left is from the axis, in points.
	legendAt float64
}

// Colours that differ for the colour-blind too (Okabe and Ito).
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0x66, 0x66, 0x66, 0xff},
}

// draw writes the plot as SVG below dir.
func (p picture) draw(dir string) error {
	f := plot.New()
	f.BackgroundColor = color.White
	f.Title.Text, f.X.Label.Text, f.Y.Label.Text = p.title, p.x, p.y
	f.Title.Padding = vg.Points(6)
	if p.logX {
		f.X.Scale, f.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if p.logY {
		f.Y.Scale, f.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if p.ticksX != nil {
		f.X.Tick.Marker = plot.ConstantTicks(p.ticksX)
	}
	if p.ticksY != nil {
		f.Y.Tick.Marker = plot.ConstantTicks(p.ticksY)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{0xe4}, color.Gray{0xe4}
	f.Add(grid)
	f.Legend.Left, f.Legend.Top = p.legendLeft, p.legendTop
	f.Legend.Padding, f.Legend.XOffs, f.Legend.YOffs = vg.Points(2), vg.Points(6), vg.Points(-4)
	if p.legendLeft {
		f.Legend.XOffs = vg.Points(10 + p.legendAt)
	} else {
		f.Legend.XOffs = vg.Points(-10)
	}
	if !p.legendTop {
		f.Legend.YOffs = vg.Points(8)
	}
	for _, l := range p.lines {
		var thumbs []plot.Thumbnailer
		if !l.bare {
			v, err := plotter.NewLine(l.points)
			if err != nil {
				return err
			}
			v.Color, v.Width = l.color, vg.Points(1.6)
			if l.dashed {
				v.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
			}
			f.Add(v)
			thumbs = append(thumbs, v)
		}
		if l.marks {
			v, err := plotter.NewScatter(l.points)
			if err != nil {
				return err
			}
			v.Color, v.Radius, v.Shape = l.color, vg.Points(3), draw.CircleGlyph{}
			if l.dashed {
				v.Shape = draw.RingGlyph{}
			}
			f.Add(v)
			thumbs = append(thumbs, v)
		}
		if l.name != "" {
			f.Legend.Add(l.name, thumbs...)
		}
	}
	if !p.logY {
		f.Y.Min = 0
	}
	if p.maxX > 0 {
		f.X.Max = p.maxX
	}
	if p.maxY > 0 {
		f.Y.Max = p.maxY
	}
	c := vgsvg.New(7.2*vg.Inch, 4.4*vg.Inch)
	// Labels at the ends of the axes reach beyond them.
	f.Draw(draw.Crop(draw.New(c), vg.Points(6), vg.Points(-24), vg.Points(6), vg.Points(-8)))
	var text bytes.Buffer
	if _, err := c.WriteTo(&text); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, p.file), text.Bytes(), 0o644)
}
