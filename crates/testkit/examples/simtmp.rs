#![allow(missing_docs, clippy::all, clippy::print_stdout)]
fn main() {
    let mut args = std::env::args().skip(1);
    let root: u64 = args.next().unwrap().parse().unwrap();
    let n: u64 = args.next().unwrap().parse().unwrap();
    if n == 0 {
        match windlass_testkit::sim::play(root) {
            Ok(p) => println!("{:?}", p.counts),
            Err(b) => println!("{b}"),
        }
        return;
    }
    let s = windlass_testkit::sim::search(root, n, std::num::NonZeroUsize::new(2).unwrap());
    println!("{} histories {:#?}", s.histories, s.counts);
    if let Some(b) = s.broken {
        println!("{b}");
    }
}
