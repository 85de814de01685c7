//! The fuzz target of the lanes without a fuzzer: random inputs of its form, its corpus, and that changed a little.

use procession_manager::fuzz;
use procession_testkit::{storm::Rng, test_watchdog};

/// Tells the input that was at work when something panicked.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("input: b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn run(input: &[u8]) {
    let _shown = Shown(input);
    fuzz::lanes(input);
}

/// A piece of such an input: what is done, and with what.
fn piece(what: u8, bytes: &[u8]) -> Vec<u8> {
    [&[what, bytes.len() as u8][..], bytes].concat()
}

/// Small numbers, a lane's bytes and about as many, and what is far off.
fn number(rng: &mut Rng) -> [u8; 8] {
    let near = *rng.pick(&[0, 1, 32, 64 << 10, 512 << 10, 1 << 20, 1 << 63, u64::MAX]);
    near.wrapping_add(rng.below(3)).wrapping_sub(1).to_le_bytes()
}

fn random(rng: &mut Rng) -> Vec<u8> {
    let how = rng.below(4);
    let mut data = vec![how as u8];
    if how & 1 == 1 {
        // The offer is as it should be, most times.
        let edit = [rng.next_u64() as u8, rng.next_u64() as u8];
        data.extend(piece(0, if rng.chance(1, 8) { &edit } else { &[] }));
        data.extend(piece(0, if rng.chance(1, 8) { &edit } else { &[] }));
    }
    for _ in 0..rng.within(1..40) {
        // The upper bits: one way, uncommitted, large, many.
        let more = *rng.pick(&[0, 0, 0, 8, 8, 0x10, 0x20]) + if rng.chance(1, 30) { 0x40 } else { 0 };
        let bytes = match rng.below(12) {
            // A new object of each type: type, types, a number or an empty row.
            0 => {
                let words = [rng.within(1..18), 0, rng.below(3)].map(u64::to_le_bytes).concat();
                piece(more & 0x18, &[&[2, 0][..], &words].concat())
            }
            1..=4 => {
                let method = *rng.pick(&[6, 10, 10, 30, 39, 50, 52, 70, 71, 80, 90, 103, 110, 19]);
                let mut bytes = vec![method, rng.below(5) as u8];
                (0..rng.below(4)).for_each(|_| bytes.extend(number(rng)));
                piece(more, &bytes)
            }
            5 => piece(1 + more, &[0; 100][..rng.below(100) as usize]),
            6 => {
                let which = (rng.below(5) + 0x80 * rng.below(2)) as u8;
                piece(2 + (more & 8), &[&[which][..], &number(rng)].concat())
            }
            7 => piece(3, &[&(rng.next_u64() as u32).to_le_bytes()[..], &number(rng)].concat()),
            8 => piece(4, &[0; 4][..rng.below(4) as usize]),
            9 => piece(5, &[]),
            10 => piece(7, &[rng.below(16) as u8]),
            _ => piece(6 + more, &[0; 200][..rng.below(200) as usize]),
        };
        data.extend(bytes);
    }
    data
}

#[test]
fn whatever_one_side_does_to_its_lanes_the_other_side_is_itself_and_nothing_is_left() {
    let _watchdog = test_watchdog();
    // Alone: what another test forks would hold the sockets of clients that are to be gone.
    procession_testkit::isolated!({
        let mut rng = Rng::from_env_or(20_261_122);
        for _ in 0..300 {
            run(&random(&mut rng));
        }
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/lanes");
        let mut inputs: Vec<_> =
            std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        // So that a seed means the same changes everywhere.
        inputs.sort();
        assert!(inputs.len() >= 8, "a corpus");
        for path in inputs {
            let input = std::fs::read(path).unwrap();
            run(&input);
            for _ in 0..15 {
                let mut input = input.clone();
                for _ in 0..=rng.below(3) {
                    let at = rng.below(input.len() as u64) as usize;
                    let any = rng.next_u64() as u8;
                    input[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, any]);
                }
                run(&input);
            }
        }
    });
}
