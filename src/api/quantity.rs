//! Kubernetes quantities (`500m`, `80Gi`, `1e3`) as whole bytes and thousandths of a core.
//!
//! Invariant: exact, and rounded up as Kubernetes does; what does not fit is an error, never a
//! smaller number, so that nobody is placed where it does not fit.

/// Why a text is no quantity that we can count with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not have the form of a quantity.
    #[error("{text:?} is not a quantity; write a number and a unit, such as 500m, 4, 16Gi")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// It is below zero.
    #[error("{text:?} is negative; write a quantity of 0 or more")]
    Negative {
        /// What was given.
        text: String,
    },
    /// It is larger than Kubernetes can count (2^63-1), or has more digits than anyone needs.
    #[error("{text:?} is too large or has too many digits; write a smaller quantity")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

/// Largest value that Kubernetes counts with.
const MAX: u128 = i64::MAX as u128;

/// `text` in whole units (bytes, GPUs), rounded up.
///
/// # Errors
/// If `text` is no quantity, negative, or too large.
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    Parsed::read(text)?.rounded_up(0).ok_or_else(|| QuantityError::TooLarge { text: text.into() })
}

/// `text` in thousandths (of a core), rounded up.
///
/// # Errors
/// If `text` is no quantity, negative, or too large.
pub fn milli(text: &str) -> Result<u64, QuantityError> {
    Parsed::read(text)?.rounded_up(3).ok_or_else(|| QuantityError::TooLarge { text: text.into() })
}

/// `digits` × 10^`ten` × 2^`two`.
struct Parsed {
    digits: u128,
    ten: i32,
    two: u32,
}

impl Parsed {
    fn read(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed { text: text.into() };
        let (sign, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let end =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(malformed());
        }
        let (ten, two) = scale(suffix).ok_or_else(malformed)?;
        let too_large = || QuantityError::TooLarge { text: text.into() };
        // Zeros at the end of a fraction say nothing and would only use up digits.
        let fraction = fraction.trim_end_matches('0');
        let written = format!("{whole}{fraction}");
        let significant = written.trim_start_matches('0');
        if significant.len() > 36 {
            return Err(too_large());
        }
        let digits = if significant.is_empty() {
            0
        } else {
            significant.parse::<u128>().map_err(|_| malformed())?
        };
        if sign < 0 && digits > 0 {
            return Err(QuantityError::Negative { text: text.into() });
        }
        let fraction = i32::try_from(fraction.len()).map_err(|_| too_large())?;
        Ok(Self { digits, ten: ten - fraction, two })
    }

    /// The value × 10^`shift`, rounded up; `None` if it is too large.
    fn rounded_up(&self, shift: i32) -> Option<u64> {
        if self.digits == 0 {
            return Some(0);
        }
        let scaled = self.digits.checked_mul(1_u128 << self.two)?;
        let ten = self.ten + shift;
        let power = 10_u128.checked_pow(ten.unsigned_abs());
        let value = match power {
            Some(power) if ten >= 0 => scaled.checked_mul(power)?,
            Some(power) => scaled.div_ceil(power),
            None if ten >= 0 => return None,
            // Less than one part of what a u128 can hold: the least there is.
            None => 1,
        };
        if value > MAX { None } else { u64::try_from(value).ok() }
    }
}

/// The power of ten and the power of two that `suffix` stands for.
fn scale(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            // Longer exponents are absurd, and their sum with a fraction's length could overflow.
            if exponent.len() > 4 {
                return None;
            }
            (exponent.parse::<i32>().ok()?, 0)
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_kubernetes_reads_is_read() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1),
            ("+5", 5),
            ("-0", 0),
            ("100m", 1),
            ("1500m", 2),
            ("1n", 1),
            (".5", 1),
            ("5.", 5),
            ("1.5Gi", 1_610_612_736),
            ("0.1Ki", 103),
            ("80Gi", 85_899_345_920),
            ("80G", 80_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("12e-1", 2),
            ("7E", 7_000_000_000_000_000_000),
            ("7Ei", 8_070_450_532_247_928_832),
            ("9223372036854775807", u64::MAX / 2),
            ("0.00000000000000000000000000000000000000000000000000000001", 1),
            ("1.000000000000000000000000000000000000000000000000", 1),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn cores_are_read_in_thousandths() {
        for (text, expected) in
            [("4", 4000), ("100m", 100), ("0.5", 500), ("1u", 1), ("2500u", 3), ("1k", 1_000_000)]
        {
            assert_eq!(milli(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for text in [
            "", " ", "Gi", "1 Gi", "1gi", "1KB", "1.2.3", "--1", "+-1", "1e", "1E+", "NaN", "0x10",
            "1Gi ", "٣", "1e99999",
        ] {
            let error = bytes(text).unwrap_err();
            assert!(matches!(error, QuantityError::Malformed { .. }), "{text}: {error}");
            assert!(error.to_string().contains("write a number and a unit"), "{error}");
        }
        assert!(bytes("-1Gi").unwrap_err().to_string().contains("negative"));
        for text in ["8Ei", "9223372036854775808", "1e400", "1111111111111111111111111111111111111"]
        {
            assert!(matches!(bytes(text), Err(QuantityError::TooLarge { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_number_or_a_sentence(text in ".{0,40}") {
            if let Err(error) = bytes(&text) {
                prop_assert!(error.to_string().contains(';'));
            }
        }

        #[test]
        fn whole_numbers_read_back(number in 0_u64..=i64::MAX as u64) {
            prop_assert_eq!(bytes(&number.to_string()), Ok(number));
        }

        #[test]
        fn binary_units_are_powers_of_two(number in 0_u64..1 << 20, unit in 0_usize..4) {
            let suffix = ["Ki", "Mi", "Gi", "Ti"][unit];
            let expected = number << (10 * (unit + 1));
            prop_assert_eq!(bytes(&format!("{number}{suffix}")), Ok(expected));
        }

        #[test]
        fn rounding_never_goes_down(whole in 0_u64..1_000_000, nano in 0_u64..1_000_000_000) {
            let up = whole + u64::from(nano > 0);
            prop_assert_eq!(bytes(&format!("{whole}.{nano:09}")), Ok(up));
            let thousandths = whole * 1000 + nano.div_ceil(1_000_000);
            prop_assert_eq!(milli(&format!("{whole}.{nano:09}")), Ok(thousandths));
        }
    }
}
