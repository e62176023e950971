//! A ring whose only node lies, over real UDP; and what a ring node's answers come to. R28, R31.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use super::*;

/// Answers every question with one record.
struct Liar {
    address: String,
    told: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    fn telling(record: &SignedRecord) -> Self {
        let socket = UdpSocket::bind(LOCALHOST).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (told, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop, record) = (Arc::clone(&told), Arc::clone(&over), record.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Some(id) = transaction(&buffer[..length]) else { continue };
                socket.send_to(&answer(id, &record), from).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, told, over, thread: Some(thread) }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The transaction of a question, as bencode has it: `1:t` and a string of up to 9 bytes.
fn transaction(question: &[u8]) -> Option<&[u8]> {
    let at = question.windows(3).rposition(|window| window == b"1:t")? + 3;
    let length = usize::from(question.get(at)?.checked_sub(b'0')?);
    question.get(at..at + 2 + length)
}

fn answer(transaction: &[u8], record: &SignedRecord) -> Vec<u8> {
    [
        b"d1:rd2:id20:liarliarliarliarliar1:k32:".as_slice(),
        record.key.as_bytes(),
        b"5:nodes0:",
        format!("3:seqi{}e3:sig64:", record.seq).as_bytes(),
        &record.signature,
        b"5:token4:lies",
        format!("1:v{}:", record.value.len()).as_bytes(),
        &record.value,
        b"e1:t",
        transaction,
        b"1:y1:re",
    ]
    .concat()
}

#[derive(Debug)]
struct ControlPlane(SignedRecord);

impl Fallback for ControlPlane {
    fn look_up(&self, _key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>> {
        let record = Some(self.0.clone());
        Box::pin(async { Ok(Some(FallbackAnswer { record, observed: Vec::new() })) })
    }
}

fn signed(seq: i64, port: u16) -> SignedRecord {
    let record = crate::Record { addresses: announcement(port).addresses, ..crate::record::tests::example() };
    SignedRecord::sign(&signer(9), seq, &record).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_whose_only_node_lies_is_not_believed_also_after_a_restart() {
    let clock = Clock::system();
    let now = clock.utc().timestamp_millis();
    let (old, newest) = (signed(now - 60_000, 1111), signed(now, 2222));
    let ahead = signed(now + 48 * 3600 * 1000, 3333);
    for lie in [old, ahead] {
        let liar = Liar::telling(&lie);
        let store = Arc::new(MemoryRecords::default());
        crate::RecordStore::keep(&*store, newest.clone().verify_signature().unwrap()).await.unwrap();
        // The second time is a start of the program with what it has kept.
        for _ in 0..2 {
            let tasks = TaskGroup::new("test");
            let node = client(std::slice::from_ref(&liar.address), &tasks).await;
            let (fallback, keep) = (Arc::new(ControlPlane(newest.clone())), Arc::clone(&store));
            let options = ResolverOptions { negative_ttl: Duration::ZERO, ..ResolverOptions::new(fleet()) };
            let resolver = Resolver::start(options, Arc::new(node), fallback, keep, clock.clone(), &tasks);
            let told = liar.told.load(Ordering::Relaxed);
            until("the lie to be told", || async {
                let begun = clock.now();
                let found = resolver.refresh(newest.key).await.unwrap();
                assert!(clock.now() - begun < Duration::from_secs(5), "R28: the control plane within 5 s");
                assert_eq!(found.addresses()[0].port(), 2222, "{found:?}");
                assert_ne!(found.source, Source::Dht);
                (liar.told.load(Ordering::Relaxed) > told + 2).then_some(())
            })
            .await;
            tasks.shutdown(Duration::from_secs(5)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_ring_node_answers_to_one_address_is_bounded() {
    let tasks = TaskGroup::new("test");
    let ring = ring_of(1, &tasks).await;
    let node = client(&ring, &tasks).await;
    let full = mainline_item(4, 1_000_000, &[b'x'; MAX_RECORD_BYTES]);
    until("the longest value", || async { node.publish(full.clone()).await.ok() }).await;
    let target = full.target();
    let question =
        [b"d1:ad2:id20:strangerstrangerstra6:target20:".as_slice(), target.as_bytes(), b"e1:q3:get1:t4:aaaa1:y1:qe"]
            .concat();
    // An address that is neither the ring's nor the fleet's.
    let socket = UdpSocket::bind("127.9.9.9:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let begun = Clock::system().now();
    let (mut asked, mut answered, mut answers, mut longest) = (0_u32, 0, 0_u32, 0);
    let mut buffer = [0; 2048];
    for number in 0..6000 {
        asked += u32::try_from(socket.send_to(&question, &ring[0]).unwrap()).unwrap();
        socket.set_nonblocking(number + 1 < 6000).unwrap();
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            (answered, answers, longest) = (answered + length, answers + 1, longest.max(length));
        }
    }
    let seconds = (Clock::system().now() - begun).as_secs_f64();
    eprintln!(
        "{asked} bytes of 6000 questions, {answers} answers of {longest} bytes at most, {answered} bytes, in {seconds:.1} s"
    );
    assert!(longest > 5 * question.len(), "the value was asked for: {longest} bytes");
    // Ten seconds' worth at once, and 50 a second.
    assert!(f64::from(answers) <= 500.0 + 50.0 * (seconds + 1.0), "R31: {answers} answers in {seconds} s");
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}
