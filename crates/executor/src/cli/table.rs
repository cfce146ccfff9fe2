//! Plain tables, with columns as wide as they must be, and the numbers in them.

use std::time::Duration;

/// Rows under a head. Columns are two blanks apart, and nothing follows the last.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Names and values below each other, the values in one column.
pub fn render_fields(fields: &[(&'static str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {}\n", printable(value)))
        .collect()
}

/// A line of numbers in columns of these widths, for rows that come one by one.
pub fn right(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths);
    let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:>width$}")).collect();
    format!("{}\n", cells.join(" "))
}

/// In the largest unit of which there is at least one, as other tools say it: `12.5M`.
pub fn bytes(count: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if count < 1024 {
        return count.to_string();
    }
    let index = (count.ilog2() / 10 - 1).min(5);
    // Exact to a tenth for every size that a machine has.
    let tenths = u128::from(count) * 10 / (1_u128 << (10 * (index + 1)));
    let unit = UNITS[index as usize];
    match tenths {
        0..1000 => format!("{}.{}{unit}", tenths / 10, tenths % 10),
        _ => format!("{}{unit}", tenths / 10),
    }
}

/// Minutes, seconds and hundredths, as other tools say it.
pub fn cpu_time(time: Duration) -> String {
    let hundredths = time.as_millis() / 10;
    format!(
        "{}:{:02}.{:02}",
        hundredths / 6000,
        hundredths / 100 % 60,
        hundredths % 100
    )
}

/// 1.0 is 100.0.
pub fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// What may break a line or drive a terminal is shown as an escape.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = vec![vec!["a".into(), "xyz".into()], vec!["long".into(), String::new()]];
        assert_eq!(render(&["ID", "TASK"], &rows), "ID    TASK\na     xyz\nlong\n");
        assert_eq!(render(&["ID"], &[]), "ID\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0, 1023, 1024, 1536, 1 << 20, 1000 << 20, (1 << 30) - 1, u64::MAX].map(bytes),
            ["0", "1023", "1.0K", "1.5K", "1.0M", "1000M", "1023M", "15.9E"]
        );
        assert_eq!(cpu_time(Duration::from_millis(61_239)), "1:01.23");
        assert_eq!(percent(1.234), "123.4");
        assert_eq!(right(&["1".into(), "22".into()], &[3, 2]), "  1 22\n");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2J\n"), "a\\u{1b}[2J\\n");
    }
}
