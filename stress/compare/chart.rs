//! A row of the benchmark as a picture: a bar for each contender.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::compare::Samples;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 370.0;
const RIGHT: f64 = 70.0;
const STEP: f64 = 30.0;
const TOP: f64 = 56.0;

/// Writes the medians of a row as bars, the shortest first; ours are darker.
pub(crate) fn write(file: &Path, title: &str, foot: &str, all: &[Samples]) -> Result<()> {
    let mut bars: Vec<(&str, f64)> = all.iter().map(|samples| (samples.name.as_str(), samples.wall())).collect();
    bars.sort_by(|one, other| one.1.total_cmp(&other.1));
    let longest = bars.last().map_or(1.0, |bar| bar.1);
    let count = f64::from(u32::try_from(bars.len())?);
    let height = TOP + STEP * count + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"16\" y=\"28\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for (number, (name, seconds)) in (0_u32..).zip(&bars) {
        let y = TOP + STEP * f64::from(number);
        let long = (seconds / longest * (WIDTH - LEFT - RIGHT)).max(1.0);
        let fill = if name.starts_with("bytekeep") { "#1f6f54" } else { "#b9c2bd" };
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{long:.1}\" height=\"20\" fill=\"{fill}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{seconds:.2} s</text>",
            LEFT - 10.0,
            y + 15.0,
            escaped(name),
            LEFT + long + 8.0,
            y + 15.0
        )?;
    }
    writeln!(svg, "<text x=\"16\" y=\"{:.0}\" font-size=\"11\" fill=\"#555555\">{}</text>\n</svg>", height - 10.0, escaped(foot))?;
    std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    println!("the chart is in {}", file.display());
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
