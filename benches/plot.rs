//! Plots of time against a size, as SVG.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::full_palette::{BLUE_700, DEEPORANGE_700};

/// Measured times over sizes, and what the machine's limits allow for each.
#[derive(Clone, Debug)]
pub struct Line {
    /// For the legend.
    pub name: String,
    /// Size, median in milliseconds, bound in milliseconds.
    pub points: Vec<(f64, f64, f64)>,
}

/// What stands around the lines.
#[derive(Clone, Debug)]
pub struct Labels {
    /// What was measured, and on which machine.
    pub title: [String; 2],
    /// The size's name and unit.
    pub size: String,
    /// How a size is written.
    pub write_size: fn(f64) -> String,
}

const COLOURS: [RGBColor; 2] = [BLUE_700, DEEPORANGE_700];
const PIXELS: (u32, u32) = (960, 640);

/// Draws times (dots, joined) and their bounds (dashed), both axes logarithmic, into the file `path`.
///
/// # Errors
/// Where there is nothing to draw, or the file cannot be written.
pub fn draw(path: &Path, labels: &Labels, lines: &[Line]) -> Result<()> {
    let root = SVGBackend::new(path, PIXELS).into_drawing_area();
    root.fill(&WHITE)?;
    let [what, machine] = &labels.title;
    let root = root
        .titled(what, ("sans-serif", 24))?
        .titled(machine, ("sans-serif", 16))?;
    let sizes = lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let times = lines
        .iter()
        .flat_map(|line| line.points.iter().flat_map(|point| [point.1, point.2]));
    let (sizes, times) = (range(sizes)?, range(times)?);
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .margin_right(32)
        .x_label_area_size(56)
        .y_label_area_size(80)
        .build_cartesian_2d(Doublings(sizes.0, sizes.1), (times.0 / 1.5..times.1 * 1.5).log_scale())?;
    let text = ("sans-serif", 16);
    chart
        .configure_mesh()
        .x_desc(&labels.size)
        .y_desc("time of one run, ms")
        .x_labels(16)
        .x_label_formatter(&|size| (labels.write_size)(*size))
        .y_label_formatter(&|ms| format!("{ms}"))
        .label_style(text)
        .axis_desc_style(("sans-serif", 18))
        .light_line_style(BLACK.mix(0.05))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let measured = || line.points.iter().map(|point| (point.0, point.1));
        let bound = line.points.iter().map(|point| (point.0, point.2));
        chart
            .draw_series(LineSeries::new(measured(), colour.stroke_width(2)))?
            .label(&line.name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        chart.draw_series(measured().map(|at| Circle::new(at, 4, colour.filled())))?;
        chart
            .draw_series(DashedLineSeries::new(bound, 6, 5, colour.stroke_width(2)))?
            .label(format!("{}, bound", line.name))
            .legend(|(x, y)| {
                let dash = |from: i32| PathElement::new([(x + from, y), (x + from + 6, y)], colour.stroke_width(2));
                EmptyElement::at((0, 0)) + dash(0) + dash(9) + dash(18)
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.4))
        .label_font(text)
        .legend_area_size(32)
        .draw()?;
    root.present()?;
    Ok(())
}

/// Least and greatest.
fn range(values: impl Iterator<Item = f64>) -> Result<(f64, f64)> {
    let (least, most) = values.fold((f64::MAX, 0.0f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    (least > 0.0 && most >= least && most.is_finite())
        .then_some((least, most))
        .context("there is nothing to draw")
}

/// A logarithmic axis with a mark at the least value and at each doubling of it.
struct Doublings(f64, f64);

impl Ranged for Doublings {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let whole = (self.1 / self.0).log2().max(1e-9);
        from + (f64::from(to - from) * (value / self.0).log2() / whole).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        std::iter::successors(Some(self.0), |value| Some(value * 2.0))
            .take_while(|value| *value <= self.1 * 1.001)
            .collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0..self.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_labels_its_marks_and_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        let labels = Labels {
            title: ["what".into(), "where".into()],
            size: "tokens".into(),
            write_size: |size| format!("{size} t"),
        };
        let line = Line {
            name: "ours".into(),
            points: vec![(1.0, 3.0, 2.0), (2.0, 5.0, 4.0), (4.0, 9.0, 8.0)],
        };
        draw(&path, &labels, &[line]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in [
            "what",
            "where",
            "tokens",
            "time of one run, ms",
            "ours, bound",
            "1 t",
            "4 t",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(draw(&path, &labels, &[]).is_err());
    }

    #[test]
    fn doublings_are_evenly_spaced() {
        let axis = Doublings(1.0, 8.0);
        assert_eq!(
            [1.0, 2.0, 4.0, 8.0].map(|value| axis.map(&value, (0, 300))),
            [0, 100, 200, 300]
        );
    }
}
