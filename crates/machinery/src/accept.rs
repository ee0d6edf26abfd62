//! Accept headers as clauses (`apiserver/pkg/endpoints/handlers/negotiation`).

/// One clause: a media type, its parameters, and how much it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// `application/json`, `text/*`, `*/*` …
    pub media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    /// In thousandths.
    quality: u32,
}

impl Accepted<'_> {
    /// A parameter's value; empty if it is not given.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }

    /// Whether a kind, group or version is said, even if it is empty.
    pub fn asks_for_another_kind(&self) -> bool {
        self.params.iter().any(|(k, _)| matches!(*k, "as" | "g" | "v"))
    }
}

/// The clauses of all Accept headers, best first; ties keep their order.
pub fn clauses<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Accepted<'a>> {
    let mut list: Vec<Accepted<'_>> = headers.flat_map(|text| text.split(',')).filter_map(clause).collect();
    list.sort_by_key(|a| std::cmp::Reverse(a.quality));
    list
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
fn clause(text: &str) -> Option<Accepted<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|m| !m.is_empty())?;
    let params: Vec<_> = parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
    let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, q)| q.parse::<f64>().ok()).unwrap_or(1.0);
    Some(Accepted { media, params, quality: (quality.clamp(0.0, 1.0) * 1000.0) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first_and_ties_keep_their_order() {
        let headers = ["text/*;q=0.5, a/b ; as=Table;v = v1", "c/d,,;q=1"];
        let shown: Vec<String> = clauses(headers.into_iter())
            .iter()
            .map(|c| format!("{} {}{}", c.media, c.param("as"), c.param("v")))
            .collect();
        assert_eq!(shown, ["a/b Tablev1", "c/d ", "text/* "]);
    }
}
