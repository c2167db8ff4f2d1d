//! What all pages have in common: one file that asks for nothing, but perhaps for images beside it.

use serde_json::Value;

const HEAD: &str = include_str!("../page/head.html");
const STYLE: &str = include_str!("../page/style.css");

/// Digits that numbers keep; more than a picture can show.
const DIGITS: usize = 6;

/// A kind of page.
pub(crate) struct Page {
    /// Where images may come from, as a content security policy names it.
    pub(crate) image_sources: &'static str,
    pub(crate) body: &'static str,
    /// One script in parts, in the order that they build on each other.
    pub(crate) scripts: &'static [&'static str],
}

impl Page {
    /// The page with its data, which the script reads.
    pub(crate) fn html(&self, title: &str, data: Value) -> Result<String, serde_json::Error> {
        let data = serde_json::to_string(&rounded(data))?;
        let parts = [
            &HEAD.replace("{images}", self.image_sources),
            "<title>",
            &text(title),
            "</title>\n<style>\n",
            STYLE,
            "</style>\n</head>\n",
            self.body,
            "<script type=\"application/json\" id=\"data\">",
            &within_script(&data),
            "</script>\n<script>\n\"use strict\";\n(() => {\n",
            &self.scripts.join("\n"),
            "})();\n</script>\n</body>\n</html>\n",
        ];
        Ok(parts.concat())
    }
}

/// Shortens all numbers with a fraction.
fn rounded(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields.map(|(key, value)| (key, rounded(value))).collect()
        }
        Value::Number(number) if number.is_f64() => {
            let short = number
                .as_f64()
                .and_then(|it| format!("{it:.0$e}", DIGITS - 1).parse::<f64>().ok());
            short.map_or(Value::Number(number), Value::from)
        }
        other => other,
    }
}

/// JSON that no HTML parser mistakes for the script's end or for a comment. In JSON, `<` stands in
/// strings only.
fn within_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_short_and_what_is_no_number_is_null() {
        let value = json!({
            "a": [1.0 / 3.0, -1.0, 2e-9 / 3.0, 12_345_678_901_u64],
            "b": f64::NAN,
            "c": "0.3333333333",
        });
        assert_eq!(
            rounded(value).to_string(),
            r#"{"a":[0.333333,-1.0,6.66667e-10,12345678901],"b":null,"c":"0.3333333333"}"#
        );
    }
}
