//! A line chart with two logarithmic axes, as SVG on white.
//!
//! Written here because it is one kind of chart: a plotting library brings more dependencies than this has lines.

use std::fmt;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 500.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 660.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 430.0;
const LEGEND_X: f64 = RIGHT + 28.0;
/// The least distance between two lines of text of the legend.
const LEGEND_STEP: f64 = 22.0;
/// Colours that are told apart on white, also by those who see few of them. A subject has the same in each picture.
const COLORS: [(&str, &str); 9] = [
    (OURS, "#0072b2"),
    ("bare", "#5f6b6d"),
    ("iceoryx2", "#d55e00"),
    ("unix-stream", "#7f3c8d"),
    ("pipe", "#8c564b"),
    ("shm-in-process", "#56b4e9"),
    ("crossbeam", "#009e73"),
    ("rtrb", "#e69f00"),
    ("futex", "#cc79a7"),
];
const COLOR_OF_OTHERS: &str = "#222222";
const DASHES: [&str; 3] = ["", "7 4", "2 4"];
/// The subject that the pictures are about.
const OURS: &str = "shm-transport";

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Size of a message and value, both above zero, by size.
    pub points: Vec<(u64, f64)>,
}

/// One picture.
#[derive(Clone, PartialEq, Debug)]
pub struct Chart {
    /// Above all.
    pub title: String,
    /// Below the title: where it was measured.
    pub note: String,
    /// What the vertical axis shows.
    pub axis: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// The part of a picture that an axis spans, as decimal logarithms.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Span {
    from: f64,
    to: f64,
}

impl Span {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (from, to) =
            values.fold((f64::MAX, f64::MIN), |(from, to), value| (from.min(value), to.max(value)));
        Self { from: from.log10(), to: to.log10() }
    }

    /// The next lower and higher of the ticks.
    fn to_ticks(self) -> Self {
        let ticks = ticks(self.from, self.to);
        let (first, last) = (ticks.first().copied(), ticks.last().copied());
        Self { from: first.map_or(self.from, f64::log10), to: last.map_or(self.to, f64::log10) }
    }

    fn at(self, value: f64, low: f64, high: f64) -> f64 {
        let width = (self.to - self.from).max(1e-9);
        low + (value.log10() - self.from) / width * (high - low)
    }
}

/// 1, 2 and 5 times the powers of ten, and all other digits too where that would be few; from the last at or below
/// to the first at or above. Both ends are given as logarithms.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let digits: &[f64] =
        if to - from < 1.0 { &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] } else { &[1.0, 2.0, 5.0] };
    let mut ticks = Vec::new();
    let mut decade = from.floor();
    while decade <= to.ceil() {
        ticks.extend(digits.iter().map(|digit| digit * 10f64.powf(decade)));
        decade += 1.0;
    }
    let slack = 1e-9;
    let first = ticks.iter().rposition(|tick| tick.log10() <= from + slack).unwrap_or(0);
    let last = ticks.iter().position(|tick| tick.log10() >= to - slack).unwrap_or(ticks.len() - 1);
    ticks[first..=last.max(first)].to_vec()
}

/// A number as short as it can be said.
fn short(value: f64) -> String {
    if value >= 1000.0 { format!("{} k", value / 1000.0) } else { format!("{}", (value * 1e6).round() / 1e6) }
}

/// A size in the unit in which it is whole.
fn size(bytes: u64) -> String {
    if bytes >= 1024 && bytes.is_multiple_of(1024) {
        format!("{} KiB", bytes / 1024)
    } else {
        format!("{bytes} B")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        #[expect(clippy::cast_precision_loss, reason = "sizes of messages are small")]
        let sizes = Span::of(points().map(|point| point.0 as f64));
        let values = Span::of(points().map(|point| point.1)).to_ticks();
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">"
        )?;
        writeln!(f, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>")?;
        let title = escaped(&self.title);
        writeln!(f, "<text x=\"{LEFT}\" y=\"24\" font-size=\"17\" font-weight=\"bold\">{title}</text>")?;
        let note = escaped(&self.note);
        writeln!(f, "<text x=\"{LEFT}\" y=\"44\" font-size=\"11\" fill=\"#555\">{note}</text>")?;
        self.axes(f, sizes, values)?;
        self.lines(f, sizes, values)?;
        writeln!(f, "</svg>")
    }
}

impl Chart {
    fn axes(&self, f: &mut fmt::Formatter<'_>, sizes: Span, values: Span) -> fmt::Result {
        for tick in ticks(values.from, values.to) {
            let y = values.at(tick, BOTTOM, TOP);
            let line = format!("x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"");
            writeln!(f, "<line {line} stroke=\"#ddd\"/>")?;
            let (x, y, label) = (LEFT - 8.0, y + 4.5, short(tick));
            writeln!(f, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>")?;
        }
        let mut widths: Vec<u64> =
            self.series.iter().flat_map(|one| one.points.iter().map(|point| point.0)).collect();
        widths.sort_unstable();
        widths.dedup();
        for bytes in widths {
            #[expect(clippy::cast_precision_loss, reason = "sizes of messages are small")]
            let x = sizes.at(bytes as f64, LEFT, RIGHT);
            let line = format!("x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"");
            writeln!(f, "<line {line} stroke=\"#eee\"/>")?;
            let (y, label) = (BOTTOM + 20.0, size(bytes));
            writeln!(f, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>")?;
        }
        let (middle, y) = (f64::midpoint(LEFT, RIGHT), BOTTOM + 46.0);
        writeln!(f, "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\">bytes of a message</text>")?;
        let (x, y, axis) = (20.0, f64::midpoint(TOP, BOTTOM), escaped(&self.axis));
        let turn = format!("transform=\"rotate(-90 {x} {y})\"");
        writeln!(f, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" {turn}>{axis}</text>")
    }

    /// The lines, and a legend whose names stand as near to the ends of the lines as there is room.
    fn lines(&self, f: &mut fmt::Formatter<'_>, sizes: Span, values: Span) -> fmt::Result {
        let end =
            |series: &Series| series.points.last().map_or(BOTTOM, |point| values.at(point.1, BOTTOM, TOP));
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        order.sort_by(|a, b| end(&self.series[*a]).total_cmp(&end(&self.series[*b])));
        let mut legend_y = vec![0.0; self.series.len()];
        let mut room_from = TOP;
        for (place, &index) in order.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "there are few series")]
            let room_to = BOTTOM - LEGEND_STEP * (order.len() - 1 - place) as f64;
            legend_y[index] = end(&self.series[index]).clamp(room_from.min(room_to), room_to);
            room_from = legend_y[index] + LEGEND_STEP;
        }
        let others = (0..self.series.len()).filter(|&index| self.series[index].name != OURS);
        let ours = (0..self.series.len()).filter(|&index| self.series[index].name == OURS);
        // Ours last, so that no other line lies over it.
        for index in others.chain(ours) {
            let (series, legend_y) = (&self.series[index], legend_y[index]);
            let ours = series.name == OURS;
            let style = COLORS.iter().position(|(name, _)| *name == series.name);
            let color = style.map_or(COLOR_OF_OTHERS, |style| COLORS[style].1);
            let dash = DASHES[style.unwrap_or(0) % DASHES.len()];
            let (width, weight) = if ours { ("3.5", "bold") } else { ("1.8", "normal") };
            let stroke = format!("stroke=\"{color}\" stroke-width=\"{width}\" stroke-dasharray=\"{dash}\"");
            let mut path = String::new();
            for &(bytes, value) in &series.points {
                #[expect(clippy::cast_precision_loss, reason = "sizes of messages are small")]
                let x = sizes.at(bytes as f64, LEFT, RIGHT);
                let y = values.at(value, BOTTOM, TOP);
                path.push_str(&format!("{x:.1},{y:.1} "));
                writeln!(f, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>")?;
            }
            writeln!(f, "<polyline points=\"{}\" fill=\"none\" {stroke}/>", path.trim_end())?;
            let (from, to, y) = (RIGHT + 4.0, LEGEND_X - 4.0, end(series));
            let lead = format!("x1=\"{from}\" x2=\"{to}\" y1=\"{y:.1}\" y2=\"{legend_y:.1}\"");
            writeln!(f, "<line {lead} stroke=\"{color}\" stroke-width=\"0.8\"/>")?;
            let (y, name) = (legend_y + 4.5, escaped(&series.name));
            let text = format!("x=\"{LEGEND_X}\" y=\"{y:.1}\" fill=\"{color}\" font-weight=\"{weight}\"");
            writeln!(f, "<text {text}>{name}</text>")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks enclose what they span, from one value to several decades.
    #[test]
    fn ticks_enclose() {
        for (from, to, expected) in [
            (30.0, 400.0, vec![20.0, 50.0, 100.0, 200.0, 500.0]),
            (20.0, 20.0, vec![20.0]),
            (0.35, 0.5, vec![0.3, 0.4, 0.5]),
            (25.0, 60.0, vec![20.0, 30.0, 40.0, 50.0, 60.0]),
        ] {
            let found: Vec<_> = ticks(f64::log10(from), f64::log10(to)).into_iter().map(short).collect();
            assert_eq!(found, expected.into_iter().map(short).collect::<Vec<_>>(), "{from} to {to}");
        }
    }

    /// Every point is inside the axes, every tag closed, and markup in a name is only text.
    #[test]
    fn the_picture_is_well_formed() {
        let series =
            |name: &str, points: &[(u64, f64)]| Series { name: name.into(), points: points.to_vec() };
        let chart = Chart {
            title: "a < b".into(),
            note: "x & y".into(),
            axis: "ns".into(),
            series: vec![
                series(OURS, &[(64, 100.0), (65_536, 10_000.0)]),
                series("other", &[(64, 100.0), (1024, 90_000.0)]),
                series("alone", &[(64, 3.0)]),
            ],
        };
        let text = chart.to_string();
        assert!(text.contains("a &lt; b") && text.contains("x &amp; y") && text.contains("64 KiB"));
        assert_eq!(text.matches("<circle").count(), 5);
        for circle in text.lines().filter_map(|line| line.strip_prefix("<circle cx=\"")) {
            let numbers: Vec<f64> = circle.split('"').filter_map(|part| part.parse().ok()).collect();
            assert!((LEFT..=RIGHT).contains(&numbers[0]) && (TOP..=BOTTOM).contains(&numbers[1]), "{circle}");
        }
        for line in text.lines() {
            let closed = line.ends_with("/>") || line.ends_with("</text>") || line.contains("svg");
            assert!(closed && line.matches('"').count().is_multiple_of(2), "{line}");
        }
    }
}
