// Puts the parts of the page that the server sends into their places.
const connection = document.getElementById("connection");
const source = new EventSource("events");
for (const part of ["summary", "machines", "releases"]) {
  const element = document.getElementById(part);
  source.addEventListener(part, (event) => {
    if (element.innerHTML !== event.data) element.innerHTML = event.data;
  });
}
source.onopen = () => { connection.hidden = true; };
source.onerror = () => { connection.hidden = false; };
