//! Tables of the page.

use std::fmt::{self, Write};

use super::cell::Text;

/// Opens a table: caption and column heads, with a `#` before those of numbers.
pub fn table(out: &mut String, caption: &str, heads: &[&str]) -> fmt::Result {
    grouped_table(out, caption, &[], heads)
}

/// Opens a table with heads that span several columns above: the name, and the number of columns.
pub fn grouped_table(
    out: &mut String,
    caption: &str,
    above: &[(&str, usize)],
    heads: &[&str],
) -> fmt::Result {
    write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption><thead>",
        Text(caption)
    )?;
    if !above.is_empty() {
        out.write_str("<tr class=\"above\">")?;
        for (name, columns) in above {
            match *name {
                "" => write!(out, "<td colspan=\"{columns}\"></td>")?,
                name => write!(out, "<th scope=\"colgroup\" colspan=\"{columns}\">{}</th>", Text(name))?,
            }
        }
        out.write_str("</tr>")?;
    }
    out.write_str("<tr>")?;
    for head in heads {
        match head.strip_prefix('#') {
            Some(head) => write!(out, "<th scope=\"col\" class=\"n\">{}</th>", Text(head))?,
            None => write!(out, "<th scope=\"col\">{}</th>", Text(head))?,
        }
    }
    out.write_str("</tr></thead><tbody>\n")
}

/// The end of a table.
pub const TABLE_END: &str = "</tbody></table></div>\n";

/// Draws the parts of a total as a bar; the cells beside it show the numbers.
pub fn bar(out: &mut String, parts: &[(&str, u64)], whole: u64) -> fmt::Result {
    out.write_str(
        "<td class=\"bar\"><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
    )?;
    let mut x = 0.0;
    for (class, n) in parts.iter().filter(|(_, n)| *n > 0) {
        let width = *n as f64 * 100.0 / whole.max(1) as f64;
        write!(out, "<path class=\"part {class}\" d=\"M{x:.2} 0h{width:.2}v10h-{width:.2}z\"/>")?;
        x += width;
    }
    out.write_str("</svg></td>")
}
