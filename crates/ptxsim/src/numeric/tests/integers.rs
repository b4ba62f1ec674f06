use crate::numeric::bits::{self, Permute};
use crate::numeric::integer::{self, IntType, Part};
use proptest::prelude::*;

const U16: IntType = IntType {
    bits: 16,
    signed: false,
};
const S16: IntType = IntType { bits: 16, signed: true };
const U64: IntType = IntType {
    bits: 64,
    signed: false,
};
const S64: IntType = IntType { bits: 64, signed: true };

fn types() -> impl Strategy<Value = IntType> {
    prop::sample::select(vec![U16, S16, IntType::U32, IntType::S32, U64, S64])
}

/// Small numbers, and all.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (any::<i8>()).prop_map(|value| value as u64),
        any::<u32>().prop_map(u64::from)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn products(a in word(), b in word(), c in word()) {
        let (x, y) = (a as u32, b as u32);
        let wide = u64::from(x) * u64::from(y);
        let signed = i64::from(x as i32) * i64::from(y as i32);
        prop_assert_eq!(integer::mul(IntType::U32, Part::Low, a, b), wide & 0xffff_ffff);
        prop_assert_eq!(integer::mul(IntType::U32, Part::High, a, b), wide >> 32);
        prop_assert_eq!(integer::mul(IntType::U32, Part::Wide, a, b), wide);
        prop_assert_eq!(integer::mul(IntType::S32, Part::High, a, b), (signed >> 32) as u64);
        prop_assert_eq!(integer::mad(IntType::S32, Part::Wide, a, b, c), signed.wrapping_add(c as i64) as u64);
        prop_assert_eq!(integer::mad(S16, Part::Wide, a, b, c), ((a as i16 as i32) * (b as i16 as i32)).wrapping_add(c as i32) as u64);
        prop_assert_eq!(integer::mul(U64, Part::High, a, b), ((u128::from(a) * u128::from(b)) >> 64) as u64);
        prop_assert_eq!(integer::mul(S64, Part::High, a, b), ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64);
        let low = integer::mad24(false, false, x, y, 7);
        prop_assert_eq!(low, (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff).wrapping_add(7));
    }

    #[test]
    fn arithmetic_follows_the_type(ty in types(), a in word(), b in word(), c in word()) {
        let (x, y) = (ty.decode(a), ty.decode(b));
        let wrap = |value: i128| ty.extend(value as u64);
        if y != 0 {
            prop_assert_eq!(integer::div(ty, a, b), wrap(x / y));
            prop_assert_eq!(integer::rem(ty, a, b), wrap(x % y));
        }
        prop_assert_eq!(integer::min_max(ty, true, false, a, b), wrap(x.max(y)));
        prop_assert_eq!(integer::min_max(ty, false, true, a, b), wrap(x.min(y).max(0)));
        prop_assert_eq!(integer::sad(ty, a, b, c), wrap((x - y).abs() + ty.decode(c)));
        prop_assert_eq!(integer::add_sat(ty, a, b), wrap(ty.clamp(x + y)));
        prop_assert_eq!(integer::sub_sat(ty, a, b), wrap(ty.clamp(x - y)));
    }

    #[test]
    fn carries_chain_to_wider_sums(a in any::<u128>(), b in any::<u128>()) {
        let (low, carry) = integer::add_carry(64, a as u64, b as u64, false);
        let (high, _) = integer::add_carry(64, (a >> 64) as u64, (b >> 64) as u64, carry);
        prop_assert_eq!(u128::from(high) << 64 | u128::from(low), a.wrapping_add(b));
        let (low, borrow) = integer::sub_borrow(64, a as u64, b as u64, false);
        let (high, _) = integer::sub_borrow(64, (a >> 64) as u64, (b >> 64) as u64, borrow);
        prop_assert_eq!(u128::from(high) << 64 | u128::from(low), a.wrapping_sub(b));
    }

    #[test]
    fn fields(ty in prop::sample::select(vec![IntType::U32, IntType::S32, U64, S64]), a in word(), b in word(), position in 0u32..300, length in 0u32..300) {
        // Bit by bit, as the PTX ISA's pseudocode for bfe and bfi.
        let (top, start, count) = (ty.bits - 1, position & 0xff, length & 0xff);
        let bit = |value: u64, index: u32| value >> index & 1;
        let fill = if !ty.signed || count == 0 { 0 } else { bit(a, (start + count - 1).min(top)) };
        let mut field = 0;
        for index in 0..=top {
            let inside = index < count && start + index <= top;
            field |= if inside { bit(a, start + index) } else { fill } << index;
        }
        prop_assert_eq!(bits::bfe(ty, a, position, length), ty.extend(field));
        let mut inserted = b;
        for index in (0..count).take_while(|index| start + index <= top) {
            inserted = inserted & !(1 << (start + index)) | bit(a, index) << (start + index);
        }
        prop_assert_eq!(bits::bfi(ty.bits, a, b, position, length), IntType { signed: false, ..ty }.extend(inserted));
    }

    #[test]
    fn shifts_clamp(ty in types(), a in word(), amount in 0u32..100) {
        let value = ty.decode(a);
        prop_assert_eq!(bits::shr(ty, a, amount), ty.extend((value >> amount.min(100)) as u64));
        let left = if amount >= ty.bits { 0 } else { (ty.decode(a) as u128) << amount };
        prop_assert_eq!(bits::shl(ty.bits, a, amount), IntType { signed: false, ..ty }.extend(left as u64));
    }

    #[test]
    fn funnel_shifts(a in any::<u32>(), b in any::<u32>(), amount in 0u32..80) {
        let joined = u128::from(u64::from(b) << 32 | u64::from(a));
        let (wrapped, clamped) = (amount % 32, amount.min(32));
        prop_assert_eq!(bits::funnel_shift(true, true, a, b, amount), (joined << wrapped >> 32) as u32);
        prop_assert_eq!(bits::funnel_shift(true, false, a, b, amount), (joined << clamped >> 32) as u32);
        prop_assert_eq!(bits::funnel_shift(false, true, a, b, amount), (joined >> wrapped) as u32);
        prop_assert_eq!(bits::funnel_shift(false, false, a, b, amount), (joined >> clamped) as u32);
    }

    #[test]
    fn logic_and_counts(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
        prop_assert_eq!(bits::lop3(0x96, a, b, c), a ^ b ^ c);
        prop_assert_eq!(bits::lop3(0xca, a, b, c), a & b | !a & c);
        prop_assert_eq!(bits::lop3(0xe8, a, b, c), a & b | a & c | b & c);
        prop_assert_eq!(bits::lop3(0xf0 & !0xcc, a, b, c), a & !b);
        prop_assert_eq!(bits::clz(32, u64::from(a)), a.leading_zeros());
        prop_assert_eq!(bits::popc(32, u64::from(a) | 1 << 40), a.count_ones());
        prop_assert_eq!(bits::brev(32, u64::from(a)), u64::from(a.reverse_bits()));
        prop_assert_eq!(bits::bfind(IntType::U32, true, u64::from(a)), if a == 0 { u32::MAX } else { a.leading_zeros() });
    }

    #[test]
    fn byte_products(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
        let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
        let signed: i32 = (0..4).map(|i| i32::from(x[i] as i8) * i32::from(y[i] as i8)).sum();
        let mixed: i32 = (0..4).map(|i| i32::from(x[i]) * i32::from(y[i] as i8)).sum();
        prop_assert_eq!(integer::dp4a(true, true, a, b, c), c.wrapping_add(signed as u32));
        prop_assert_eq!(integer::dp4a(false, true, a, b, c), c.wrapping_add(mixed as u32));
        let high = i32::from(a as i16) * i32::from(y[2]) + i32::from((a >> 16) as i16) * i32::from(y[3]);
        prop_assert_eq!(integer::dp2a(true, false, true, a, b, c), c.wrapping_add(high as u32));
    }
}

#[test]
fn edges() {
    assert_eq!(integer::div(IntType::U32, 5, 0), 0xffff_ffff);
    assert_eq!(integer::rem(IntType::S32, -5i64 as u64, 0), -5i64 as u64);
    assert_eq!(integer::div(S64, i64::MIN as u64, -1i64 as u64), i64::MIN as u64);
    assert_eq!(integer::abs(IntType::S32, 0x8000_0000), i32::MIN as i64 as u64);
    assert_eq!(
        integer::mad_hi_sat_s32(0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff),
        0x7fff_ffff
    );
    assert_eq!(bits::bfind(IntType::S32, false, -1i64 as u64), u32::MAX);
    assert_eq!(bits::bfind(IntType::S32, false, -256i64 as u64), 7);
    assert_eq!(bits::fns(0b1011_0000, 5, 2), 7);
    assert_eq!(bits::fns(0b1011_0000, 5, -2), 4);
    assert_eq!(bits::fns(0b1011_0000, 6, 0), u32::MAX);
    assert_eq!(bits::bmsk(false, 4, 40), 0xffff_fff0);
    assert_eq!(bits::szext(true, false, 0x80, 8), 0xffff_ff80);
}

#[test]
fn permutations() {
    let (a, b) = (0x8382_8180, 0x0706_0504);
    assert_eq!(bits::prmt(Permute::Default, a, b, 0x7250), 0x0782_0580);
    assert_eq!(bits::prmt(Permute::Default, a, b, 0x08c4), 0x80ff_0004);
    assert_eq!(bits::prmt(Permute::Forward4, a, b, 2), 0x0504_8382);
    assert_eq!(bits::prmt(Permute::Backward4, a, b, 1), 0x0607_8081);
    assert_eq!(bits::prmt(Permute::Replicate8, a, b, 3), 0x8383_8383);
    assert_eq!(bits::prmt(Permute::EdgeLeft, a, b, 2), 0x8382_8282);
    assert_eq!(bits::prmt(Permute::EdgeRight, a, b, 1), 0x8181_8180);
    assert_eq!(bits::prmt(Permute::Replicate16, a, b, 1), 0x8382_8382);
}
