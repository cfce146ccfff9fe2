//! Weights of input and output on the scales that kernels have had.

/// The usual weight, on the scale of v2 (1 to 10000) and on BFQ's (1 to 1000).
const USUAL: u16 = 100;

/// On the scale of BFQ: the same up to the usual weight, from there a straight line to the upper ends of both scales.
pub(crate) fn bfq(weight: u16) -> u16 {
    const UPPER: u32 = 10_000;
    const BFQ_UPPER: u32 = 1_000;
    let Some(above) = weight.checked_sub(USUAL) else {
        return weight;
    };
    let usual = u32::from(USUAL);
    let above = u32::from(above).min(UPPER - usual) * (BFQ_UPPER - usual) / (UPPER - usual);
    USUAL + u16::try_from(above).expect("the scale ends at 1000")
}

/// On the scale of v1's `blkio.weight` (10 to 1000, usually 500).
pub(crate) fn blkio(weight: u16) -> u16 {
    weight.saturating_mul(5).clamp(10, 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scales_keep_the_usual_weight_and_the_ends() {
        for (weight, on_bfq, on_blkio) in [
            (1, 1, 10),
            (50, 50, 250),
            (100, 100, 500),
            (200, 109, 1000),
            (1000, 181, 1000),
            (10_000, 1000, 1000),
            (u16::MAX, 1000, 1000),
        ] {
            assert_eq!((bfq(weight), blkio(weight)), (on_bfq, on_blkio), "weight {weight}");
        }
    }
}
