//! Aligned tables and readable numbers.

/// Rows whose first cells are aligned to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let length = |row: &Vec<String>| row.get(column).map_or(0, |cell| cell.chars().count());
        rows.iter().map(length).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter().map(|row| line(row, &widths)).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        match column {
            0 => line += &format!("{cell:width$}"),
            _ => line += &format!("  {cell:>width$}"),
        }
    }
    format!("{}\n", line.trim_end())
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `89.1 %`; of nothing, nothing is lost.
pub fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    format!("{:.1} %", 100.0 * share)
}

/// `5.2 M/s`.
pub fn rate(count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds.max(1e-9);
    match rate {
        1e9.. => format!("{:.1} G/s", rate / 1e9),
        1e6.. => format!("{:.1} M/s", rate / 1e6),
        1e3.. => format!("{:.1} k/s", rate / 1e3),
        _ => format!("{rate:.0} /s"),
    }
}

/// `12.3 ms`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        60.0.. => format!("{}:{:02} min", seconds as u64 / 60, seconds as u64 % 60),
        1.0.. => format!("{seconds:.2} s"),
        1e-3.. => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.0} us", seconds * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let texts = [0, 12, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (percent(1, 3), percent(0, 0)),
            ("33.3 %".to_owned(), "100.0 %".to_owned())
        );
        assert_eq!(rate(5_200_000, 1.0), "5.2 M/s");
        assert_eq!(
            [duration(2e-5), duration(0.0123), duration(75.0)],
            ["20 us", "12.3 ms", "1:15 min"]
        );
    }

    #[test]
    fn tables() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = [row(&["a", "1", "2"]), row(&["long", "100"]), row(&["b", "", "x"])];
        assert_eq!(table(&rows), "a       1  2\nlong  100\nb          x\n");
    }
}
