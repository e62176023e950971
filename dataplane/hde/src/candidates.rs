//! Where the anchors of a region of the segment may stand in the sources.

use proto_wire::hde::Source;

use crate::{
    matcher::{Field, REGION, Spot},
    sampling::{Rate, WINDOW, sample},
};

/// Candidates of one region: looked up together, so that waits for memory overlap.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// The region plus one; 0 for none.
    region: usize,
    anchors: Vec<(u32, u64)>,
    /// (number of the anchor, where it may stand), by the anchor.
    found: Vec<(usize, Spot)>,
    /// (place in the segment, its part of `found`).
    places: Vec<(usize, std::ops::Range<usize>)>,
    spots: Vec<Spot>,
}

impl Candidates {
    pub(crate) fn clear(&mut self) {
        self.region = 0;
    }

    /// The number of the first anchor from `position` on in its region.
    pub(crate) fn seek(&mut self, new: &[u8], position: usize, field: &Field<'_>) -> usize {
        let region = position / REGION;
        if self.region != region + 1 {
            self.look_up(new, region * REGION, field);
            self.region = region + 1;
        }
        self.places.partition_point(|(place, _)| *place < position)
    }

    /// The place of an anchor in the segment, and where it may stand.
    pub(crate) fn get(&self, number: usize) -> Option<(usize, &[Spot])> {
        let (place, range) = self.places.get(number)?;
        Some((*place, self.spots.get(range.clone())?))
    }

    fn look_up(&mut self, new: &[u8], first: usize, field: &Field<'_>) {
        self.anchors.clear();
        self.found.clear();
        self.places.clear();
        self.spots.clear();
        let history = field.history.filter(|_| field.limit > 0);
        let rates = field.index.map(|index| index.rate().0).into_iter().chain(history.map(|history| history.rate().0));
        let Some(rate) = rates.min() else { return };
        let bytes = &new[first..new.len().min(first + REGION + WINDOW - 1)];
        sample(bytes, REGION, Rate(rate), &mut self.anchors);
        if let Some(index) = field.index {
            for (number, (_, hash)) in self.anchors.iter().enumerate() {
                let spots = index.table().find(*hash).map(|offset| Spot { source: Source::Basis, offset });
                self.found.extend(spots.map(|spot| (number, spot)));
            }
        }
        if let Some(history) = history {
            history.find(&self.anchors, field.limit, &mut |number, offset| {
                self.found.push((number, Spot { source: Source::History, offset }));
            });
            self.found.sort_by_key(|(number, _)| *number);
        }
        for (number, spot) in &self.found {
            let place = first + usize::try_from(self.anchors[*number].0).unwrap_or(0);
            let end = self.spots.len();
            match self.places.last_mut() {
                Some((last, range)) if *last == place => range.end = end + 1,
                Some(_) | None => self.places.push((place, end..end + 1)),
            }
            self.spots.push(*spot);
        }
    }
}
