//! One segment on its way into its container: divided, written in the ways that are worth trying, remembered.

use std::{io, sync::Arc};

use proto_wire::hde::{Flags, HEAD_BYTES, HISTORY_PREFIX_BYTES, Head, Kind, Op, Source, put_varint};

use crate::{
    anchors::AnchorIndex,
    baseline::Baseline,
    cost::{Choice, Effort, Permille, Reason},
    delta::{DeltaUse, DeltaWriter},
    described::Described,
    dictionary::{Lean, small_level},
    literals::Literals,
    matcher::{Field, MIN_MATCH, Matcher, least_match},
    options::Algorithm,
    plan::Plan,
    prefix::Limits,
    read_at::ReadAt,
    refine::{Fineness, Refiner},
    sampling::{Rate, sample},
    signature::Run,
    typed::{Layout, Typed},
    version::{Basis, Version},
    why::{Form, Found, Weighed, Why},
    zeros::all_zero,
};

/// A segment that has more literals than this at its old place is searched for elsewhere; below, no index is needed.
const IN_PLACE_LITERALS: usize = 16 << 10;
/// Beside chunks of a signature, zeros are looked for in units of this size …
const ZERO_UNIT_BYTES: usize = 4 << 10;
/// … and a shorter one is a literal.
const MIN_ZEROS: usize = 64;
/// Numbers that keep at most so much are not searched for elsewhere.
const SURE_NUMBERS: Permille = Permille(600);
/// Of numbers zstd alone leaves so much; of what else looks like them less.
const DENSE: Permille = Permille(700);
/// What zstd leaves so much of is noise: media, archives, encrypted data …
const NOISE: Permille = Permille(985);
/// … of which one region of so many is looked up, so that what repeats in more bytes than that is found …
const NOISE_STRIDE: usize = 8;
/// … by an anchor of every other one.
const NOISE_RATE: Rate = Rate(11);
/// An object up to this long is also tried with all of its baseline, where that is no longer, as prefix …
const WHOLE_BYTES: usize = 1 << 20;
/// … unless a delta of it is as short as this.
const LEAST_DELTA: usize = 64;
/// Shorter literals bring no anchors into the history.
const MIN_REMEMBERED_BYTES: usize = 256;

/// What segments are encoded with, one after another.
#[derive(Default)]
pub(crate) struct Tools {
    pub(crate) literals: Literals,
    pub(crate) matcher: Matcher,
    writer: DeltaWriter,
    described: Described,
    typed: Typed,
    refiner: Refiner,
    /// What stands in the baseline where the segment does.
    base: Vec<u8>,
    prefix: Vec<u8>,
    /// Why the present segment becomes what it does.
    pub(crate) why: Why,
    /// Head and body of the present segment.
    pub(crate) container: Vec<u8>,
}

/// One segment in work.
pub(crate) struct Work<'a> {
    pub(crate) tools: &'a mut Tools,
    version: &'a Version,
    number: u64,
    segment: &'a [u8],
    /// The end of the history that may be referred to.
    limit: u64,
    /// The segment looks like changed numbers of the base.
    numbers: Option<Layout>,
    /// Nothing compresses it: of its repetitions only long ones are looked for.
    noise: bool,
    /// How much a sample keeps, once it was taken.
    kept: Option<Permille>,
}

impl<'a> Work<'a> {
    /// Waits until all is there that the segment may refer to.
    pub(crate) fn begin(tools: &'a mut Tools, version: &'a Version, number: u64, segment: &'a [u8]) -> Self {
        let limit = version.history().map_or(0, |history| history.wait(number));
        tools.why = Why::default();
        Self { tools, version, number, segment, limit, numbers: None, noise: false, kept: None }
    }

    /// How much a sample of the segment keeps.
    fn kept(&mut self) -> Permille {
        *self.kept.get_or_insert_with(|| self.tools.literals.probe(self.segment))
    }

    fn start(&self) -> u64 {
        self.number.saturating_mul(self.version.segment_bytes().into())
    }

    /// Refers to nothing.
    pub(crate) fn nothing(&mut self) {
        self.tools.matcher.plan.clear();
        self.tools.matcher.plan.literal(self.segment.len());
    }

    /// Divides the segment into what stands elsewhere and what does not.
    pub(crate) fn plan(&mut self) -> io::Result<()> {
        let references = self.version.options().references;
        match self.version.basis() {
            Basis::Signature(index) if references => {
                let runs = self.tools.described.runs(self.version, index, self.number, self.segment);
                self.tools.why.found = if runs.is_empty() { Found::Nothing } else { Found::Described };
                by_signature(&mut self.tools.matcher.plan, self.segment, runs);
                Ok(())
            }
            Basis::Baseline(baseline) if references => self.by_baseline(baseline),
            Basis::Nothing | Basis::Signature(_) | Basis::Baseline(_) => {
                let mut field = self.field(None, None);
                if self.version.history().is_some() {
                    let kept = self.kept();
                    self.noise = kept >= NOISE;
                    field.stride = if self.noise { NOISE_STRIDE } else { 1 };
                    field.least = least_match(kept);
                    field.near = !self.noise;
                }
                self.tools.matcher.run(self.segment, self.start(), &field)?;
                self.tools.why.found = match self.version.basis() {
                    Basis::Signature(_) | Basis::Baseline(_) => Found::DeltaDisabled,
                    Basis::Nothing if self.noise => Found::Random,
                    Basis::Nothing => self.elsewhere(),
                };
                Ok(())
            }
        }
    }

    /// Whether the search found anything.
    fn elsewhere(&self) -> Found {
        if self.tools.matcher.plan.is_literal() { Found::Nothing } else { Found::Elsewhere }
    }

    fn field<'f>(&self, baseline: Option<&'f Baseline>, index: Option<&'f AnchorIndex>) -> Field<'f>
    where
        'a: 'f,
    {
        Field {
            basis: baseline.map(|baseline| baseline.bytes().as_ref()),
            index,
            history: self.version.history(),
            limit: self.limit,
            most_literals: usize::MAX,
            stride: 1,
            near: false,
            least: MIN_MATCH,
        }
    }

    /// First at its old place, so that a baseline that is only changed in place needs no index.
    fn by_baseline(&mut self, baseline: &'a Arc<Baseline>) -> io::Result<()> {
        let field = self.field(Some(baseline), None);
        let in_place = Field { most_literals: IN_PLACE_LITERALS, history: None, limit: 0, ..field };
        let explained = self.tools.matcher.run(self.segment, self.start(), &in_place)?;
        let changed = self.tools.matcher.plan.replaced.len() + self.tools.matcher.plan.literal_bytes;
        if !explained || changed > self.segment.len() / 16 {
            self.sample_numbers(baseline)?;
        }
        if explained {
            self.tools.why.found = Found::InPlace;
            return Ok(());
        }
        let sure = self.numbers.is_some_and(|layout| layout.kept <= SURE_NUMBERS);
        if sure && self.few_are_equal() {
            self.tools.why.found = Found::Numbers;
            self.nothing();
            return Ok(());
        }
        let index = baseline.built(self.version.options().density())?;
        let least = least_match(self.kept());
        let field = Field { index: Some(index), near: true, least, ..field };
        self.tools.matcher.run(self.segment, self.start(), &field)?;
        self.tools.why.found = self.elsewhere();
        Ok(())
    }

    /// Notes what a form came to; `worked` bytes were gone through for it.
    fn weigh(&mut self, form: Form, choice: Choice, worked: usize, bytes: Option<usize>) {
        let cpu_nanoseconds = self.version.costs().nanoseconds(choice.effort, worked);
        self.tools.why.weigh(Weighed { form, choice, bytes: bytes.map(wide), cpu_nanoseconds });
    }

    /// Says what decided.
    pub(crate) fn decide(&mut self, kind: Option<Kind>) {
        let form = match kind {
            None => Form::Raw,
            Some(Kind::Plain(_)) => Form::Whole,
            Some(Kind::Delta) => Form::Delta,
            Some(Kind::Typed) => Form::Numbers,
        };
        let stored = Choice { effort: Effort::Store, reason: Reason::Configured };
        self.weigh(Form::Raw, stored, self.segment.len(), Some(self.segment.len() + HEAD_BYTES));
        self.tools.why.decide(form);
    }

    /// Looks closely at what was left.
    pub(crate) fn refine(&mut self) -> io::Result<()> {
        let readable = match self.version.basis() {
            Basis::Baseline(baseline) if self.version.options().references => Some(baseline.bytes().as_ref()),
            Basis::Nothing => None,
            Basis::Baseline(_) | Basis::Signature(_) => return Ok(()),
        };
        let plan = &self.tools.matcher.plan;
        if plan.literal_bytes == 0 || plan.is_literal() || plan.literal_bytes > self.segment.len() / 8 * 7 {
            return Ok(());
        }
        let fineness = match self.version.costs().configured() {
            Effort::Zstd(16..) => Fineness::THOROUGH,
            Effort::Zstd(_) => Fineness::QUICK,
            Effort::Store | Effort::Lz4 | Effort::Snappy => return Ok(()),
        };
        let history = self.version.history();
        let mut read = |source: Source, offset: u64, room: &mut [u8]| match source {
            Source::Basis => readable.ok_or(io::ErrorKind::NotFound)?.read_at(offset, room),
            Source::History => history.ok_or(io::ErrorKind::NotFound)?.source().read_at(offset, room),
            Source::Zeros => Ok(()),
        };
        let ends = [readable.map_or(0, ReadAt::size), self.limit];
        let Tools { matcher, refiner, .. } = &mut *self.tools;
        refiner.refine(&mut matcher.plan, self.segment, fineness, ends, &mut read)
    }

    /// Whether the segment looks like numbers that stand, changed, at its place in the baseline.
    fn sample_numbers(&mut self, baseline: &Baseline) -> io::Result<()> {
        let (start, length) = (self.start(), wide(self.segment.len()));
        if self.version.options().algorithm != Algorithm::Zstd || start + length > baseline.bytes().size() {
            return Ok(());
        }
        // Pages and text look like numbers, too; zstd makes them smaller than that.
        if self.kept() < DENSE {
            return Ok(());
        }
        self.tools.base.resize(self.segment.len(), 0);
        baseline.bytes().read_at(start, &mut self.tools.base)?;
        self.numbers = Typed::sample(self.segment, &self.tools.base);
        Ok(())
    }

    /// Whether next to nothing stands unchanged where it stood: what does is better told by copies.
    fn few_are_equal(&self) -> bool {
        let (new, old) = (self.segment.as_chunks::<8>().0, self.tools.base.as_chunks::<8>().0);
        new.iter().zip(old).filter(|(new, old)| new == old).count() < new.len() / 4
    }

    /// As numbers, where a sample promises that to be shorter than what a delta would take.
    fn typed(&mut self) -> Option<Layout> {
        let layout = self.numbers?;
        let plan = &self.tools.matcher.plan;
        let promised = self.segment.len() / 1000 * usize::from(layout.kept.0);
        // Bytes that a delta spells out keep at least a third.
        let delta = plan.replaced.len() + plan.literal_bytes;
        if promised > delta {
            return None;
        }
        let (start, segment) = (self.start(), self.segment);
        let Tools { typed, base, container, .. } = &mut *self.tools;
        container.clear();
        container.resize(HEAD_BYTES, 0);
        put_varint(start, container);
        typed.encode(segment, base, layout, container);
        let made = container.len();
        let numbers = Choice { effort: Effort::Zstd(1), reason: Reason::Configured };
        self.weigh(Form::Numbers, numbers, segment.len(), Some(made));
        Some(layout).filter(|_| made < segment.len())
    }

    /// Writes the smallest form that is worth trying; none where the segment as it is is that.
    pub(crate) fn choose(&mut self, length: u32) -> Option<Kind> {
        let best = self.divided(length);
        let most = best.map_or(self.segment.len() + HEAD_BYTES, |_| self.tools.container.len());
        match self.leaning(most) {
            Some((kind, flags)) => {
                self.head(kind, flags, length);
                Some(kind)
            }
            None => best,
        }
    }

    /// The same without all of the baseline as prefix.
    fn divided(&mut self, length: u32) -> Option<Kind> {
        let mut best = None;
        if self.typed().is_some() {
            let flags = Flags { basis: true, ..Flags::default() };
            self.head(Kind::Typed, flags, length);
            let plan = &self.tools.matcher.plan;
            // A third of what a delta spells out is the least that it can come to.
            if self.tools.container.len() * 3 <= plan.replaced.len() + plan.literal_bytes {
                return Some(Kind::Typed);
            }
            best = Some(std::mem::take(&mut self.tools.container));
        }
        let numbers = best;
        let mut best = None;
        // Where nearly all is literal, the whole is tried first, and at the strongest levels both.
        let strong =
            matches!(self.version.costs().configured(), Effort::Zstd(16..)) && !self.tools.matcher.plan.is_literal();
        let mostly = !strong && self.tools.matcher.plan.literal_bytes > self.segment.len() / 8 * 7;
        if !mostly && let Ok(Some(flags)) = self.delta() {
            best = Some(Kind::Delta);
            self.head(Kind::Delta, flags, length);
        }
        let literal_bytes = self.tools.matcher.plan.literal_bytes;
        // Matches that leave most of a segment literal may only have torn apart what compresses better as a whole.
        let most = best.map_or(self.segment.len() + HEAD_BYTES, |_| self.tools.container.len());
        let whole = self.segment.len();
        let shreds = self.tools.matcher.plan.ops.len() > whole / 64 && literal_bytes > whole / 5;
        let torn = numbers.is_none() && (literal_bytes > whole / 2 || shreds) && most > whole / 64;
        let torn = torn && (best.is_none() || !self.is_hopeless(most));
        if (best.is_none() && numbers.is_none() || torn)
            && let Some((kind, flags)) = self.plain(most)
        {
            self.head(kind, flags, length);
            self.nothing();
            best = Some(kind);
        }
        if best.is_none()
            && mostly
            && !self.tools.matcher.plan.is_literal()
            && let Ok(Some(flags)) = self.delta()
        {
            best = Some(Kind::Delta);
            self.head(Kind::Delta, flags, length);
        }
        if let Some(numbers) = numbers.filter(|numbers| best.is_none() || numbers.len() < self.tools.container.len()) {
            self.tools.container = numbers;
            return Some(Kind::Typed);
        }
        best.filter(|_| self.tools.container.len() < self.segment.len() + HEAD_BYTES)
    }

    /// Whether the segment as a whole cannot come to less than `made`: samples of it hardly become smaller.
    fn is_hopeless(&mut self, made: usize) -> bool {
        let kept = self.tools.literals.probe(self.segment);
        kept >= DENSE && made < self.segment.len() / 1000 * usize::from(kept.0) / 10 * 9
    }

    /// Puts the head before the body that stands in the container after room for it.
    fn head(&mut self, kind: Kind, flags: Flags, segment_bytes: u32) {
        let head = Head { kind, flags, segment_bytes }.bytes();
        self.tools.container[..HEAD_BYTES].copy_from_slice(&head);
    }

    fn delta(&mut self) -> io::Result<Option<Flags>> {
        let Tools { matcher, literals, writer, container, .. } = &mut *self.tools;
        container.clear();
        container.resize(HEAD_BYTES, 0);
        let basis = match self.version.basis() {
            Basis::Baseline(baseline) => Some(baseline.bytes().as_ref()),
            Basis::Nothing | Basis::Signature(_) => None,
        };
        let history = self.version.history();
        let field = Field {
            basis,
            index: None,
            history,
            limit: self.limit,
            most_literals: 0,
            stride: 1,
            near: false,
            least: MIN_MATCH,
        };
        let limits = Limits { basis: basis.map_or(0, ReadAt::size), history: self.limit };
        let limits = (limits != Limits::default()).then_some(limits);
        let how = DeltaUse { literals, costs: self.version.costs(), limits };
        let mut read = |source: Source, offset: u64, room: &mut [u8]| match field.source(source) {
            Some(source) => source.read_at(offset, room),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let written = writer.write(&matcher.plan, self.segment, how, &mut read, container);
        let made = written.as_ref().is_ok_and(Option::is_some).then_some(container.len());
        if let Some((choice, worked)) = writer.chosen.take() {
            self.weigh(Form::Delta, choice, worked, made);
        }
        written
    }

    /// The whole segment as one stream, where that makes less than `most`.
    fn plain(&mut self, most: usize) -> Option<(Kind, Flags)> {
        let choice = self.version.costs().plain(self.kept());
        let Tools { literals, prefix, container, why, .. } = &mut *self.tools;
        let effort = choice.effort;
        prefix.clear();
        let history = self.version.history().filter(|_| self.limit > 0 && matches!(effort, Effort::Zstd(_)));
        if let Some(history) = history {
            let length = self.limit.min(HISTORY_PREFIX_BYTES);
            prefix.resize(usize::try_from(length).ok()?, 0);
            history.source().read_at(self.limit - length, prefix).ok()?;
        }
        let cpu_nanoseconds = self.version.costs().nanoseconds(effort, self.segment.len() + prefix.len());
        let packed = literals.compress(self.segment, prefix, effort);
        let bytes = packed.map(|(_, packed)| wide(packed.len() + HEAD_BYTES));
        why.weigh(Weighed { form: Form::Whole, choice, bytes, cpu_nanoseconds });
        let (codec, packed) = packed?;
        let flags = Flags { history: !prefix.is_empty(), ..Flags::default() };
        if packed.len() + HEAD_BYTES + 10 >= most {
            return None;
        }
        container.clear();
        container.resize(HEAD_BYTES, 0);
        if flags.history {
            put_varint(self.limit, container);
        }
        container.extend_from_slice(packed);
        Some((Kind::Plain(codec), flags))
    }

    /// The whole of a small object as one stream behind the whole of its baseline, where that makes less than `most`.
    fn leaning(&mut self, most: usize) -> Option<(Kind, Flags)> {
        let Basis::Baseline(baseline) = self.version.basis() else { return None };
        let (bytes, options) = (baseline.bytes(), self.version.options());
        let length = usize::try_from(bytes.size()).ok().filter(|length| (1..=WHOLE_BYTES).contains(length))?;
        let alone = self.segment.len() <= WHOLE_BYTES && self.version.size() == wide(self.segment.len());
        if !alone || !options.references || most <= LEAST_DELTA {
            return None;
        }
        let Effort::Zstd(level) = self.version.costs().plain(Permille(500)).effort else { return None };
        let Tools { literals, prefix, container, why, .. } = &mut *self.tools;
        prefix.resize(length, 0);
        bytes.read_at(0, prefix).ok()?;
        // One stretch of memory: zstd is quicker so.
        prefix.extend_from_slice(self.segment);
        let (old, new) = prefix.split_at(length);
        let level = small_level(new.len(), level, &Lean::Baseline(old));
        let choice = Choice { effort: Effort::Zstd(level), reason: Reason::Little };
        let cpu_nanoseconds = self.version.costs().nanoseconds(choice.effort, new.len() + old.len());
        let packed = literals.compress(new, old, choice.effort);
        let made = packed.map(|(_, packed)| wide(packed.len() + HEAD_BYTES));
        why.weigh(Weighed { form: Form::Leaning, choice, bytes: made, cpu_nanoseconds });
        let (codec, packed) = packed?;
        if packed.len() + HEAD_BYTES + 10 >= most {
            return None;
        }
        container.clear();
        container.resize(HEAD_BYTES, 0);
        put_varint(bytes.size(), container);
        container.extend_from_slice(packed);
        Some((Kind::Plain(codec), Flags { basis: true, ..Flags::default() }))
    }

    /// Lets later segments refer to what is new in this one.
    pub(crate) fn remember(&mut self) {
        let Some(history) = self.version.history() else { return };
        let rate = if self.noise { history.rate().max(NOISE_RATE) } else { history.rate() };
        let (mut anchors, mut found, mut position) = (Vec::new(), Vec::new(), 0);
        for op in &self.tools.matcher.plan.ops {
            let length = usize::try_from(op.length()).unwrap_or(0);
            if let (Op::Literal { .. }, true) = (op, length >= MIN_REMEMBERED_BYTES) {
                found.clear();
                sample(&self.segment[position..position + length], usize::MAX, rate, &mut found);
                let first = self.start() + wide(position);
                anchors.extend(found.iter().map(|(place, hash)| (first + u64::from(*place), *hash)));
            }
            position += length;
        }
        history.add(self.number, anchors);
    }
}

/// Chunks that the receiver says it holds; zeros between them.
fn by_signature(plan: &mut Plan, segment: &[u8], runs: &[Run]) {
    plan.clear();
    let mut at = 0;
    for run in runs {
        unless_zero(plan, &segment[at..run.start]);
        plan.copy(run.length, Source::Basis, run.offset);
        at = run.start + run.length;
    }
    unless_zero(plan, &segment[at..]);
}

fn unless_zero(plan: &mut Plan, bytes: &[u8]) {
    for unit in bytes.chunks(ZERO_UNIT_BYTES) {
        if unit.len() >= MIN_ZEROS && all_zero(unit) {
            plan.copy(unit.len(), Source::Zeros, 0);
        } else {
            plan.literal(unit.len());
        }
    }
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
