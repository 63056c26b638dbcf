export function showParcel(parcel: { id: string; note: string; state: string }) {
  const title = document.getElementById("title")!;
  title.innerHTML = "Parcel " + parcel.id;
  const note = document.getElementById("note")!;
  note.innerHTML = parcel.note;
  const state = document.querySelector(".state")!;
  state.innerHTML = `<b>${parcel.state}</b>`;
}

export function showError() {
  const box = document.getElementById("error")!;
  box.innerHTML = decodeURIComponent(location.hash.slice(1));
}
