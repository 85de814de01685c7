//! Renders the Mandelbrot set by several processes into one image in shared memory. Each has rows of its own, which it
//! writes without a lock and without a copy; the parent writes the whole as a PNG file.
//!
//! Python: `SharedMemory` under a numpy array. Which rows are whose is up to the programmer there; here each part has
//! one owner.
//!
//! ```sh
//! cargo run --release --example mandelbrot                    # target/mandelbrot.png
//! cargo run --release --example mandelbrot -- /tmp/image.png
//! ```
// ci: target/mandelbrot-ci.png => wrote target/mandelbrot-ci.png

use procession::prelude::*;
use std::{error::Error, fs::File, io::BufWriter, path::PathBuf, time::Instant};

const WIDTH: usize = 1200;
const HEIGHT: usize = 800;
const ROWS: usize = 25;
const STEPS: u32 = 500;

type Pixel = [u8; 3];

/// How far a point is from the set: after how many steps it escapes, with a fraction for smooth colours.
fn escape(x: f64, y: f64) -> Option<f64> {
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    for step in 0..STEPS {
        (a, b) = (a * a - b * b + x, 2.0 * a * b + y);
        let square = a * a + b * b;
        if square > 256.0 {
            return Some(f64::from(step) + 1.0 - (square.ln() / 2.0).log2());
        }
    }
    None
}

fn colour(x: f64, y: f64) -> Pixel {
    let Some(steps) = escape(x, y) else { return [0, 0, 0] };
    let phase = steps.max(0.0).sqrt() * 0.8;
    [3.6_f64, 4.2, 5.0].map(|shift| (127.5 + 127.5 * (phase + shift).cos()) as u8)
}

/// Runs in a process of its own: fills rows of the image. They are this process's until it drops the parts.
fn render(parts: Vec<ArrayPart<Pixel>>) {
    let scale = 3.6 / WIDTH as f64;
    for mut rows in parts {
        let first = rows.range().start;
        for (index, pixel) in (first..).zip(rows.get_mut().unwrap()) {
            let (column, row) = (index % WIDTH, index / WIDTH);
            *pixel = colour(column as f64 * scale - 2.5, row as f64 * scale - 1.2);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map_or("target/mandelbrot.png".into(), PathBuf::from);
    let start = Instant::now();
    let image = Array::<Pixel>::new(WIDTH * HEIGHT)?;

    // Dealt out like cards, since rows differ in how long they take.
    let mut hands: Vec<Vec<_>> = (0..cpu_count()).map(|_| Vec::new()).collect();
    let count = hands.len();
    for (index, part) in image.chunks_mut(ROWS * WIDTH)?.into_iter().enumerate() {
        hands[index % count].push(part);
    }
    let processes = hands.into_iter().map(|hand| Process::spawn(render, hand));
    for process in processes.collect::<Result<Vec<_>, _>>()? {
        process.join()?;
    }

    // All parts are back: the image as a whole can be locked.
    let pixels = image.lock().map_err(|error| error.without_guard())?;
    println!("{WIDTH} by {HEIGHT} pixels by {count} processes in {:.0?}", start.elapsed());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&path)?), WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels.as_flattened())?;
    println!("wrote {}", path.display());
    Ok(())
}
