const results = document.getElementById("results")!;

export async function search() {
  const term = new URLSearchParams(location.search).get("q") ?? "";
  results.innerHTML = "Results for " + term;
  const answer = await fetch("/search?q=" + term);
  for (const hit of await answer.json()) {
    const row = document.createElement("li");
    row.innerHTML = hit.html;
    results.append(row);
  }
}

export function requestId() {
  return "search-" + Math.random();
}
