//! ImageLocality: nodes that already have the images, weighted by size and by how many nodes have them (`image_locality.go`).

use super::{MAX, Score, as_is};

const MIN_BYTES: i64 = 23 * 1024 * 1024;
const MAX_BYTES: i64 = 1000 * 1024 * 1024;

pub(super) const SCORE: Score = Score {
    name: "ImageLocality",
    weight: 1,
    score: |pod, info, snapshot| {
        let nodes = i64::try_from(snapshot.nodes().count()).unwrap_or(1).max(1);
        let mut sum = 0;
        for image in &pod.images {
            let name = normalized(image);
            if let Some(size) = info.images.get(&name) {
                let having = snapshot.nodes().filter(|(_, n)| n.images.contains_key(&name)).count();
                sum += size * i64::try_from(having).unwrap_or(0) / nodes;
            }
        }
        let top = MAX_BYTES * i64::try_from(pod.images.len()).unwrap_or(1).max(1);
        MAX * (sum.clamp(MIN_BYTES, top) - MIN_BYTES) / (top - MIN_BYTES)
    },
    normalize: as_is,
};

/// `:latest` is implied (`normalizedImageName`).
fn normalized(image: &str) -> String {
    if image.rfind(':') <= image.rfind('/') { format!("{image}:latest") } else { image.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(normalized("nginx"), "nginx:latest");
        assert_eq!(normalized("host:5000/nginx"), "host:5000/nginx:latest");
        assert_eq!(normalized("host:5000/nginx:1"), "host:5000/nginx:1");
    }
}
