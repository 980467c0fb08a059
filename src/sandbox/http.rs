//! Reading `/metrics`, `/readyz` and the like of our own processes, over plain TCP.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A local process that has not answered by then does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The status and the body of `GET path` at `address` (`host:port`).
///
/// # Errors
/// A sentence that says what went wrong.
pub async fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let (to, what) = (address.to_string(), path.to_string());
    let answer = tokio::task::spawn_blocking(move || exchange(&to, &what))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("GET {path} at {address}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without headers")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or("an answer without status")?, body.to_string()))
}

fn exchange(address: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    // HTTP/1.0: the body is not chunked and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The sum of all samples of `metric` whose labels hold every `key="value"` of `labels`, from a page
/// in the Prometheus text format.
#[must_use]
pub fn metric(page: &str, metric: &str, labels: &[(&str, &str)]) -> f64 {
    page.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, found) = series.split_once('{').unwrap_or((series, ""));
            let fits =
                |(key, wanted): &(&str, &str)| found.contains(&format!("{key}=\"{wanted}\""));
            (name == metric && labels.iter().all(fits)).then_some(value)
        })
        .filter_map(|value| value.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_the_series_that_fit() {
        let page = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"4\"} 5\nab 7\nb 9\n";
        for (name, labels, sum) in [
            ("a", &[("x", "1")][..], "8"),
            ("a", &[("y", "4")][..], "5"),
            ("a", &[("y", "5")][..], "0"),
            ("b", &[][..], "9"),
        ] {
            assert_eq!(metric(page, name, labels).abs().to_string(), sum, "{name} {labels:?}");
        }
    }
}
